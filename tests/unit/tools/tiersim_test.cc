// SPDX-License-Identifier: BSD-3-Clause
//
// What tiersim counts, on cases small enough to work out by hand.
#include <gtest/gtest.h>
#include <pcow/units.h>

#include "tools/tiersim/epoch_use.h"
#include "tools/tiersim/placement.h"

namespace tiersim {
namespace {

constexpr uint64_t kSetSize = 16 * pcow::kLineSize;  // a cache of one set: 16 lines

TEST(CacheTest, WritesBackTheLeastRecentlyUsedLineOnceIfItIsDirty) {
  Cache cache(kSetSize);
  uint64_t written_back = 0;
  EXPECT_FALSE(cache.access(100, true, written_back));
  for (uint64_t line = 0; line < 15; ++line) EXPECT_FALSE(cache.access(line, false, written_back));
  EXPECT_FALSE(cache.access(100, false, written_back));  // a hit: it is the newest now, still dirty
  for (uint64_t line = 20; line < 35; ++line) EXPECT_FALSE(cache.access(line, false, written_back));
  EXPECT_TRUE(cache.access(40, false, written_back));
  EXPECT_EQ(written_back, 100U);
  for (uint64_t line = 50; line < 80; ++line) EXPECT_FALSE(cache.access(line, false, written_back));
}

TEST(UseCounterTest, AddsUpPagesInTheOrderOfTheirLastAccess) {
  UseCounter counter(4, kSetSize);
  const EpochUse use = counter.count({{.page = 2, .count = 3, .lines = 0b10, .write = true},
                                      {.page = 1, .count = 1, .lines = 1},
                                      {.page = 3, .count = 1, .lines = 1},
                                      {.page = 2, .count = 2, .lines = 0b101, .write = true}});
  ASSERT_EQ(use.size(), 3U);
  EXPECT_EQ(use[0].page, 1U);
  EXPECT_EQ(use[0].reads, 1U);
  EXPECT_EQ(use[0].first_read, 25U);
  EXPECT_EQ(use[0].first_write, PageUse::kNever);
  EXPECT_EQ(use[2].page, 2U);
  EXPECT_EQ(use[2].writes, 5U);
  EXPECT_EQ(use[2].stored_lines, 0b111U);
  EXPECT_EQ(use[2].first_write, 0U);
  EXPECT_EQ(use[2].written_back, 0U);
}

TEST(UseCounterTest, WriteBacksCountForThePageTheyBelongTo) {
  UseCounter counter(4, kSetSize);
  counter.count({{.page = 0, .count = 1, .lines = 1, .write = true}});
  const EpochUse use = counter.count({{.page = 1, .count = 16, .lines = 0xffff}});
  ASSERT_EQ(use.size(), 2U);
  EXPECT_EQ(use[0].page, 0U);
  EXPECT_EQ(use[0].written_back, 1U);
  EXPECT_EQ(use[0].writes, 0U);
}

TEST(PlacementTest, LinesReachTheImageByDemotionOrThrottledStores) {
  Placement placement(8, 1);
  Score score;
  const PageUse stored = {.page = 0, .reads = 3, .writes = 2, .stored_lines = 0b11};
  EXPECT_EQ(placement.serve(stored, score), Placement::Served::kFaulted);
  EXPECT_EQ(score.hits, 3U);  // all but the fault and one read that comes before it
  EXPECT_EQ(placement.serve({.page = 0, .writes = 1, .stored_lines = 0b110}, score),
            Placement::Served::kDram);
  EXPECT_EQ(placement.serve({.page = 1, .writes = 4, .stored_lines = 1}, score),
            Placement::Served::kThrottled);
  EXPECT_EQ(score.throttled, 4U);
  EXPECT_EQ(score.pm_lines, 0U);  // still in the cache
  placement.serve({.page = 1, .written_back = 1}, score);
  EXPECT_EQ(score.pm_lines, 1U);
  placement.serve({.page = 2, .written_back = 1}, score);  // stored to when it was in DRAM
  EXPECT_EQ(score.pm_lines, 1U);
  placement.demote(0, score);
  EXPECT_EQ(score.pm_lines, 4U);
  placement.promote(0, score);
  placement.demote(0, score);
  EXPECT_EQ(score.pm_lines, 4U);
}

}  // namespace
}  // namespace tiersim
