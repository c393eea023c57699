// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tiering/policy/huge.h"

namespace tiering {
namespace {

using pcow::ChunkIndex;
using pcow::kPagesPerChunk;
using pcow::PageIndex;
using Chunks = std::vector<ChunkIndex>;
using Fields = PageRecord::Fields;

constexpr HugeLimits kNoLimits{.room_pages = 10'000, .chunks_max = 100, .idle_min = 8};
constexpr Fields kRead{.heat = 2000, .visits = 20, .run = 1, .hit = true, .last_read = true};
constexpr Fields kWritten{.heat = 2000, .visits = 20, .run = 1, .hit = true};
constexpr Fields kWrittenLongAgo{.heat = 1000, .visits = 20, .run = 8};

PageRun run(uint64_t first, uint64_t count) { return {PageIndex(first), count}; }

// Three chunks, all in DRAM, all pages of which were read.
class HugePolicyTest : public ::testing::Test {
 protected:
  HugePolicyTest() {
    for (uint64_t i = 0; i < words_.size(); ++i) {
      words_.at(i).fill(PageRecord(kRead).word());
      views_.at(i).words = words_.at(i).data();
      copies(i).chunk = ChunkIndex(i);
      copies(i).resident.set();
    }
  }
  ChunkResidency& copies(uint64_t chunk) { return views_.at(chunk).in_dram; }
  void know(uint64_t chunk, uint64_t page, const Fields& fields) {
    words_.at(chunk).at(page) = PageRecord(fields).word();
  }
  Chunks choose(const HugeLimits& limits = kNoLimits) const {
    return choose_huge(views_, plan_, limits);
  }
  WholeChunks whole(const std::vector<PageRun>& chosen) const {
    std::vector<ChunkResidency> all;
    for (const ChunkView& view : views_) all.push_back(view.in_dram);
    return with_whole_chunks(chosen, all);
  }

  std::array<std::array<uint32_t, kPagesPerChunk>, 3> words_{};
  std::array<ChunkView, 3> views_;
  Plan plan_;
};

TEST_F(HugePolicyTest, ChunksThatAreReadBecomeHuge) {
  EXPECT_EQ(choose(), (Chunks{ChunkIndex(0), ChunkIndex(1), ChunkIndex(2)}));
  copies(1).huge = true;
  EXPECT_EQ(choose(), (Chunks{ChunkIndex(0), ChunkIndex(2)}));
}

TEST_F(HugePolicyTest, ThoseThatAreStoredToDoNot) {
  know(0, 17, kWritten);
  know(1, 511, kWrittenLongAgo);
  EXPECT_EQ(choose(), (Chunks{ChunkIndex(1), ChunkIndex(2)}));
  EXPECT_EQ(choose({.room_pages = 0, .chunks_max = 9, .idle_min = 9}), Chunks{ChunkIndex(2)});
}

TEST_F(HugePolicyTest, NorThoseThatMayNotMoveOrLeave) {
  copies(0).pinned.set(3);
  plan_.demotions = {run(kPagesPerChunk - 1, 1), run(2 * kPagesPerChunk - 1, 1)};
  EXPECT_EQ(choose(), Chunks{ChunkIndex(2)});
}

TEST_F(HugePolicyTest, NorThoseOfWhichMuchIsNotInDram) {
  for (uint64_t i = 0; i < 64; ++i) copies(0).resident.reset(i);
  for (uint64_t i = 0; i < 65; ++i) copies(1).resident.reset(i);
  EXPECT_EQ(choose(), (Chunks{ChunkIndex(0), ChunkIndex(2)}));
  EXPECT_EQ(choose({.room_pages = 63, .chunks_max = 9, .idle_min = 8}), Chunks{ChunkIndex(2)});
}

TEST_F(HugePolicyTest, TheHottestComeFirst) {
  know(1, 0, {.heat = 2001, .visits = 20, .run = 1, .hit = true, .last_read = true});
  EXPECT_EQ(choose({.room_pages = 0, .chunks_max = 1, .idle_min = 8}), Chunks{ChunkIndex(1)});
  EXPECT_EQ(choose({.room_pages = 0, .chunks_max = 2, .idle_min = 8}),
            (Chunks{ChunkIndex(0), ChunkIndex(1)}));
}

TEST_F(HugePolicyTest, NothingIsKnownOfAChunk) {
  views_.at(0).words = nullptr;
  EXPECT_EQ(choose({.room_pages = 0, .chunks_max = 9, .idle_min = 8}).size(), 3U);
}

TEST_F(HugePolicyTest, AHoleLeavesAsAWhole) {
  copies(1).hole = true;
  copies(1).dirty.set(100);
  copies(1).pinned.set(101);
  copies(1).resident.reset(102);
  const uint64_t first = kPagesPerChunk;
  const WholeChunks gone = whole({run(first - 5, 5 + kWholeChunkMin), run(first + 500, 20)});
  EXPECT_EQ(gone.demotions, (std::vector<PageRun>{run(first - 5, 105), run(first + 103, 417)}));
  EXPECT_EQ(gone.returning,
            (std::vector<PageRun>{run(first + kWholeChunkMin, 36), run(first + 103, 397)}));
}

TEST_F(HugePolicyTest, ButNotForFewPages) {
  copies(1).hole = true;
  const std::vector<PageRun> few{run(kPagesPerChunk, kWholeChunkMin - 1)};
  EXPECT_EQ(whole(few).demotions, few);
  EXPECT_TRUE(whole(few).returning.empty());
}

TEST_F(HugePolicyTest, OtherChunksGoPageByPage) {
  const std::vector<PageRun> chosen{run(3, 300), run(kPagesPerChunk + 1, 1)};
  EXPECT_EQ(whole(chosen).demotions, chosen);
  EXPECT_TRUE(whole(chosen).returning.empty());
  EXPECT_TRUE(whole({}).demotions.empty());
}

}  // namespace
}  // namespace tiering
