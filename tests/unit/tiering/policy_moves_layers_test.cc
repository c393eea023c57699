// SPDX-License-Identifier: BSD-3-Clause
//
// Moves of a policy where a snapshot keeps what the image has: pages lie in windows of several
// layers, and only those of the newest one are stored to.
#include <gtest/gtest.h>
#include <tiering/region.h>

#include <vector>

#include "tests/unit/tiering/fixture.h"

namespace tiering::testing {
namespace {

using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::PageIndex;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kChunks = 24;
constexpr uint64_t kOwnedPages = 4;  // the first ones of each chunk but the last
constexpr uint64_t kHole = (kChunks - 1) * kPagesPerChunk;

PageRun run(uint64_t first, uint64_t count) { return {PageIndex(first), count}; }

// A region over an image whose pages are marked with their number, and one, all in a snapshot; none
// is in DRAM.
class PolicyMovesLayersTest : public ImageTest {
 protected:
  PolicyMovesLayersTest() {
    create(kChunks * kChunkSize);
    map();
    for (uint64_t chunk = 0; chunk < kChunks - 1; ++chunk) {
      store(chunk * kPagesPerChunk, kOwnedPages);
    }
    must(region_->commit(false));
    region_.reset();
    close();
    open();
    must(image().create_snapshot("one"));
    map();
  }
  void map() { region_ = map_region(image(), {.persistence = Persistence::kEpoch}); }
  void store(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) set_mark(*region_, page, page + 1);
  }
  void expect_marks(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) {
      ASSERT_EQ(mark(*region_, page), page + 1) << page;
      ASSERT_EQ(image_mark(image(), page), page + 1) << page;
    }
  }
  PreparedMoves prepare(const std::vector<PageRun>& demotions) {
    return must(region_->prepare_moves({.demotions = demotions, .watched = {}}));
  }
  BarrierReport epoch() {
    must(region_->precopy());
    const BarrierReport report = must(region_->barrier());
    EXPECT_FALSE(report.demotion_error);
    must(region_->commit_epoch());
    EXPECT_TRUE(must(region_->checkpoint(kAll)).done);
    return report;
  }

  std::unique_ptr<Region> region_;
};

// The window that the chunk is mapped from is the snapshot's, which has the page still.
TEST_F(PolicyMovesLayersTest, WhatWasDiscardedIsNotShownByAnOlderWindow) {
  store(kHole, 10);
  epoch();
  must(region_->create_snapshot("two"));
  must(region_->discard((kHole + 9) * kPageSize, kPageSize));
  EXPECT_EQ(prepare({run(kHole, 8)}).demotions, std::vector{run(kHole, 8)});
  EXPECT_EQ(epoch().demoted_pages, 8U);
  EXPECT_EQ(mark(*region_, kHole + 9), 0U);
  expect_marks(kHole, 9);
  epoch();
  EXPECT_EQ(mark(*region_, kHole + 9), 0U);
  EXPECT_EQ(image_mark(image(), kHole + 9), 0U);
}

// What was only read stays where it is, so a base is shared still, and snapshots cost no space.
TEST_F(PolicyMovesLayersTest, APromotionStoresNothingAnew) {
  const uint64_t allocated = image().info().allocated_bytes;
  EXPECT_EQ(must(region_->promote(run(0, kOwnedPages))), kOwnedPages);
  must(region_->promote(run(kPagesPerChunk, 2)));
  set_mark(*region_, kPagesPerChunk, 77);
  epoch();
  EXPECT_EQ(image().info().allocated_bytes, allocated + kPageSize) << "of what was stored to";
  // They go as they came.
  EXPECT_EQ(prepare({run(0, kOwnedPages)}).demotions, std::vector{run(0, kOwnedPages)});
  set_mark(*region_, 2, 88);
  EXPECT_EQ(epoch().demoted_pages, kOwnedPages - 1);
  expect_marks(0, 2);
  EXPECT_EQ(mark(*region_, 2), 88U);
  EXPECT_EQ(image_mark(image(), 2), 88U);
  EXPECT_EQ(mark(*region_, kPagesPerChunk), 77U);
  EXPECT_EQ(image_mark(image(), kPagesPerChunk), 77U);
  expect_marks(kPagesPerChunk + 1, 1);
}

// To copy a chunk together takes as long as to write all of it.
TEST_F(PolicyMovesLayersTest, AsManyChunksAreCopiedTogetherAsABarrierMaps) {
  std::vector<PageRun> chosen;
  for (uint64_t chunk = 0; chunk < kChunks - 1; ++chunk) {
    chosen.push_back(run(chunk * kPagesPerChunk + 10, 1));
    store(chosen.back().first.value, 1);
  }
  store(11, 2);  // more that stay than such that go
  epoch();
  const PreparedMoves prepared = prepare(chosen);
  uint64_t shared = 0;
  const pcow::GibLayout layout = must(image().layout(pcow::GibIndex(0)));
  for (const auto& chunk : layout.chunks) {
    shared += chunk.kind == pcow::GibLayout::Kind::kMixed ? 1U : 0U;
  }
  EXPECT_GT(shared, 1U);
  EXPECT_EQ(shared, prepared.unmovable_pages);
  EXPECT_EQ(layout.chunks.at(0).kind, pcow::GibLayout::Kind::kMixed);
  EXPECT_EQ(epoch().demoted_pages, chosen.size() - shared);
  for (const PageRun& each : chosen) expect_marks(each.first.value, 1);
  for (uint64_t chunk = 0; chunk < kChunks - 1; ++chunk) {
    expect_marks(chunk * kPagesPerChunk, kOwnedPages);
  }
}

}  // namespace
}  // namespace tiering::testing
