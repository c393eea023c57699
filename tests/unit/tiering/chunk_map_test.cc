// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/chunk_map.h"

#include <gtest/gtest.h>

#include <tiering/region.h>
#include <bitset>
#include <random>

#include "tests/support/test_seed.h"

namespace tiering {
namespace {

using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::kChunksPerSegment;
using pcow::kSegmentSize;

ChunkRun run(uint64_t first, uint64_t count) { return {ChunkIndex(first), count}; }

// A map of whole GiBs whose segments lie in the file in guest order.
ChunkMap in_order(uint64_t gibs) {
  ChunkMap map(gibs * kChunksPerSegment);
  for (uint64_t gib = 0; gib < gibs; ++gib) map.set_segment(GibIndex(gib), gib * kSegmentSize);
  return map;
}

using Chunks = std::bitset<kChunksPerSegment>;

Chunks one(uint64_t chunk) { return Chunks().set(chunk); }

// Every second chunk cached: as fragmented as it gets.
void want_alternating(ChunkMap& map, GibIndex gib) {
  Chunks chunks;
  for (uint64_t i = 0; i < kChunksPerSegment; i += 2) chunks.set(i);
  map.want_cached(gib, chunks);
}

TEST(ChunkMapTest, ARegionOfHolesIsOneMapping) {
  const ChunkMap map(700);
  EXPECT_EQ(map.mappings(), 1U);
  EXPECT_EQ(map.gibs(), 2U);
  EXPECT_EQ(map.gib_run(GibIndex(1)).count, 700 - kChunksPerSegment);
  EXPECT_EQ(map.run_from(ChunkIndex(0)).count, 700U);
}

TEST(ChunkMapTest, ACachedChunkSplitsAHoleAndGrowsWithItsNeighbours) {
  ChunkMap map = in_order(1);
  EXPECT_EQ(map.mappings_after(run(10, 1)), 3U);
  map.set_cached(run(10, 1));
  EXPECT_EQ(map.mappings(), 3U);
  map.set_cached(run(11, 5));
  EXPECT_EQ(map.mappings(), 3U);
  map.set_cached(run(0, 10));
  EXPECT_EQ(map.mappings(), 2U);
  EXPECT_EQ(map.cached_chunks(), 16U);
  EXPECT_EQ(map.slack(), 0U);
}

TEST(ChunkMapTest, ClosingAGapCountsBothSeamsUntilTheKernelIsAsked) {
  ChunkMap map = in_order(1);
  map.set_cached(run(10, 1));
  map.set_cached(run(12, 1));
  EXPECT_EQ(map.mappings(), 5U);
  map.set_cached(run(11, 1));
  EXPECT_EQ(map.mappings(), 5U);
  EXPECT_EQ(map.slack(), 1U);
  map.resync({ChunkIndex(0), ChunkIndex(10), ChunkIndex(13)});
  EXPECT_EQ(map.mappings(), 3U);
  EXPECT_EQ(map.slack(), 0U);
}

TEST(ChunkMapTest, OneMappingForAGibRemovesWhatIsInside) {
  ChunkMap map = in_order(1);
  for (uint64_t i = 0; i < kChunksPerSegment; i += 2) map.set_cached(run(i, 1));
  EXPECT_EQ(map.mappings(), kChunksPerSegment);
  EXPECT_EQ(map.inner_boundaries(GibIndex(0)), kChunksPerSegment - 1);
  map.set_cached(map.gib_run(GibIndex(0)));
  EXPECT_EQ(map.mappings(), 1U);
}

TEST(ChunkMapTest, SegmentsMergeOnlyWhenNeighboursInTheFile) {
  ChunkMap scattered(3 * kChunksPerSegment);
  for (uint64_t gib = 0; gib < 3; ++gib) {
    scattered.set_segment(GibIndex(gib), (2 - gib) * kSegmentSize);
  }
  ChunkMap ordered = in_order(3);
  for (uint64_t gib = 0; gib < 3; ++gib) {
    ordered.want_cached(GibIndex(gib), ~Chunks());
    scattered.want_cached(GibIndex(gib), ~Chunks());
  }
  ASSERT_TRUE(ordered.plan(kMinMappingBudget, kMinMappingBudget));
  ASSERT_TRUE(scattered.plan(kMinMappingBudget, kMinMappingBudget));
  EXPECT_EQ(ordered.mappings(), 1U);
  EXPECT_EQ(ordered.run_from(ChunkIndex(0)).count, ordered.chunks());
  EXPECT_EQ(scattered.mappings(), 3U);
  EXPECT_EQ(scattered.run_from(ChunkIndex(0)).count, kChunksPerSegment);
  EXPECT_EQ(scattered.file_offset(ChunkIndex(1)), 2 * kSegmentSize + pcow::kChunkSize);
}

TEST(ChunkMapTest, PlanKeepsHolesWhileTheBudgetLasts) {
  ChunkMap map = in_order(4);
  for (uint64_t gib = 0; gib < 4; ++gib) want_alternating(map, GibIndex(gib));
  ASSERT_TRUE(map.plan(4 * kChunksPerSegment, 8192));
  EXPECT_EQ(map.cached_chunks(), 4 * kChunksPerSegment / 2);
  EXPECT_EQ(map.mappings(), 4 * kChunksPerSegment);
}

TEST(ChunkMapTest, PlanTakesWholeGibsWhereItSavesMost) {
  ChunkMap map = in_order(3);
  map.want_cached(GibIndex(0), one(5));
  want_alternating(map, GibIndex(1));
  map.want_cached(GibIndex(2), one(5));
  ASSERT_TRUE(map.plan(16, 8192));
  EXPECT_EQ(map.cached_chunks(), kChunksPerSegment + 2);
  EXPECT_EQ(map.state(ChunkIndex(6)), ChunkState::kHole);
  EXPECT_LE(map.mappings(), 16U);
}

TEST(ChunkMapTest, PlanMayMissItsAimButNotTheBudget) {
  ChunkMap map = in_order(4);
  map.want_cached(GibIndex(1), one(5));
  map.set_segment(GibIndex(1), 9 * kSegmentSize);
  ASSERT_TRUE(map.plan(2, 3));
  EXPECT_EQ(map.mappings(), 3U);
}

TEST(ChunkMapTest, PlanNamesTheBudgetThatWouldDo) {
  ChunkMap map(64 * kChunksPerSegment);
  for (uint64_t gib = 0; gib < 64; gib += 2) {
    map.set_segment(GibIndex(gib), gib * kSegmentSize);
    want_alternating(map, GibIndex(gib));
  }
  const auto plan = map.plan(30, 40);
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().code, pcow::Code::kNoMemory);
  EXPECT_NE(plan.error().message.find("mapping-budget=40 is too small"), std::string::npos);
  EXPECT_NE(plan.error().message.find("use mapping-budget=64"), std::string::npos)
      << plan.error().message;
}

// The count kept step by step never falls below the count that the states alone demand.
TEST(ChunkMapTest, TheCountIsAnUpperBoundAfterAnyHistory) {
  std::mt19937_64 random(test::test_seed());
  ChunkMap map = in_order(4);
  for (int step = 0; step < 2000; ++step) {
    const uint64_t gib = random() % 4;
    const uint64_t first = random() % kChunksPerSegment;
    const uint64_t count = 1 + random() % std::min<uint64_t>(4, kChunksPerSegment - first);
    const ChunkRun change = run(gib * kChunksPerSegment + first, count);
    const uint64_t announced = map.mappings_after(change);
    map.set_cached(change);
    ASSERT_EQ(map.mappings(), announced);
    uint64_t least = 0;
    for (ChunkIndex at(0); at.value < map.chunks(); at = map.run_from(at).end()) ++least;
    ASSERT_GE(map.mappings(), least);
  }
}

}  // namespace
}  // namespace tiering
