// SPDX-License-Identifier: BSD-3-Clause
//
// Which chunks are watched for reads, and pages that wait for their turn.
#include "tiering/read_watch.h"

#include <gtest/gtest.h>

#include <set>

#include "tiering/run_queue.h"

namespace tiering {
namespace {

using pcow::ChunkIndex;
using pcow::PageIndex;
using Chunks = std::vector<ChunkIndex>;

Chunks chunks(std::initializer_list<uint64_t> values) { return {values.begin(), values.end()}; }

// All chunks of a region but the first 10.
class ReadWatchTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kEnd = 30;

  Chunks choose(uint64_t count) {
    return watch_.choose(count, [](ChunkIndex from, uint64_t most) {
      Chunks found;
      for (uint64_t at = std::max<uint64_t>(10, from.value); at < kEnd && found.size() < most; ++at)
        found.emplace_back(at);
      return found;
    });
  }

  ReadWatch watch_;
};

TEST_F(ReadWatchTest, ChunksTakeTurns) {
  EXPECT_EQ(choose(8), chunks({10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(choose(8), chunks({18, 19, 20, 21, 22, 23, 24, 25}));
  EXPECT_EQ(choose(8), chunks({10, 11, 12, 13, 26, 27, 28, 29}));
  EXPECT_EQ(choose(8), chunks({14, 15, 16, 17, 18, 19, 20, 21}));
}

TEST_F(ReadWatchTest, NoneIsChosenTwice) {
  EXPECT_EQ(choose(100).size(), 20U);
  for (int i = 0; i < 3; ++i) {
    const Chunks all = choose(100);
    EXPECT_EQ(all.size(), 20U);
    EXPECT_EQ(std::set<ChunkIndex>(all.begin(), all.end()).size(), 20U);
    for (const ChunkIndex chunk : all) watch_.saw(chunk, 1);
  }
}

TEST_F(ReadWatchTest, WhereReadsWereSeenIsLookedAtAgain) {
  choose(4);
  watch_.saw(ChunkIndex(11), 5);
  watch_.saw(ChunkIndex(12), 0);
  EXPECT_EQ(choose(4), chunks({11, 14, 15, 16}));
  watch_.saw(ChunkIndex(11), 0);
  EXPECT_EQ(choose(4), chunks({17, 18, 19, 20}));
}

TEST_F(ReadWatchTest, OthersHaveTheirTurnAllTheSame) {
  for (const ChunkIndex chunk : choose(8)) watch_.saw(chunk, 100);
  EXPECT_EQ(choose(8), chunks({10, 11, 12, 13, 14, 15, 18, 19}));
  // And nobody is followed for ever.
  for (uint32_t look = 1; look < ReadWatch::kLooksMax; ++look) {
    for (uint64_t chunk = 10; chunk < 18; ++chunk) watch_.saw(ChunkIndex(chunk), 100);
  }
  EXPECT_EQ(choose(4), chunks({20, 21, 22, 23}));
}

TEST_F(ReadWatchTest, NothingToWatch) {
  const auto none = [](ChunkIndex, uint64_t) { return Chunks(); };
  EXPECT_TRUE(watch_.choose(8, none).empty());
  EXPECT_TRUE(choose(0).empty());
}

TEST(RunQueueTest, GivesPagesInPieces) {
  using Runs = std::vector<PageRun>;
  RunQueue queue(Runs{{PageIndex(3), 2}, {PageIndex(9), 4}, {PageIndex(20), 1}});
  EXPECT_EQ(queue.pages(), 7U);
  EXPECT_EQ(queue.take(3), (Runs{{PageIndex(3), 2}, {PageIndex(9), 1}}));
  EXPECT_EQ(queue.take(0), Runs{});
  EXPECT_EQ(queue.take(2), (Runs{{PageIndex(10), 2}}));
  EXPECT_EQ(queue.pages(), 2U);
  EXPECT_EQ(queue.take(100), (Runs{{PageIndex(12), 1}, {PageIndex(20), 1}}));
  EXPECT_EQ(queue.take(100), Runs{});
  queue = RunQueue(Runs{{PageIndex(1), 1}});
  queue.clear();
  EXPECT_EQ(queue.pages(), 0U);
  EXPECT_EQ(queue.take(1), Runs{});
}

}  // namespace
}  // namespace tiering
