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
using pcow::FilePlace;
using pcow::GibIndex;
using pcow::GibLayout;
using pcow::kChunksPerSegment;
using pcow::kSegmentSize;
using Kind = GibLayout::Kind;

ChunkRun run(uint64_t first, uint64_t count) { return {ChunkIndex(first), count}; }

// Where the segments of an image lie whose GiBs are in guest order.
FilePlace segment_of(uint64_t gib) { return {0, (gib + 1) * kSegmentSize}; }
FilePlace place_of(ChunkRun chunks) {
  return segment_of(0) + chunks.first.value * pcow::kWindowSize;
}

using Chunks = std::bitset<kChunksPerSegment>;

Chunks one(uint64_t chunk) { return Chunks().set(chunk); }

// Every second chunk: as fragmented as it gets.
Chunks alternating() {
  Chunks chunks;
  for (uint64_t i = 0; i < kChunksPerSegment; i += 2) chunks.set(i);
  return chunks;
}

void want(ChunkMap& map, uint64_t gib, const Chunks& chunks, FilePlace segment) {
  GibLayout layout;
  layout.segment = {segment};
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) {
    if (chunks[i]) layout.chunks[i] = {Kind::kWindow, segment + i * pcow::kWindowSize};
  }
  map.want(GibIndex(gib), layout);
}

void want(ChunkMap& map, uint64_t gib, const Chunks& chunks) {
  want(map, gib, chunks, segment_of(gib));
}

void set_cached(ChunkMap& map, ChunkRun chunks) { map.set_cached(chunks, place_of(chunks)); }

TEST(ChunkMapTest, AChunkBecomesAHoleAgain) {
  ChunkMap map(700);
  set_cached(map, run(10, 5));
  EXPECT_EQ(map.mappings(), 3U);
  map.set_holes({ChunkIndex(12), 1});
  EXPECT_EQ(map.mappings(), 5U);
  EXPECT_EQ(map.cached_chunks(), 4U);
  EXPECT_EQ(map.state(ChunkIndex(12)), ChunkState::kHole);
  EXPECT_EQ(map.place(ChunkIndex(13)), place_of(run(13, 1)));
  // Beside a hole the kernel may merge it, or not.
  map.set_holes({ChunkIndex(10), 1});
  EXPECT_EQ(map.mappings(), 6U);
  EXPECT_EQ(map.slack(), 1U);
  map.set_holes({ChunkIndex(10), 1});
  EXPECT_EQ(map.cached_chunks(), 3U);
}

TEST(ChunkMapTest, ARegionOfHolesIsOneMapping) {
  const ChunkMap map(700);
  EXPECT_EQ(map.mappings(), 1U);
  EXPECT_EQ(map.gibs(), 2U);
  EXPECT_EQ(map.gib_run(GibIndex(1)).count, 700 - kChunksPerSegment);
  EXPECT_EQ(map.run_from(ChunkIndex(0)).count, 700U);
}

TEST(ChunkMapTest, ACachedChunkSplitsAHoleAndGrowsWithItsNeighbours) {
  ChunkMap map(1 * kChunksPerSegment);
  EXPECT_EQ(map.mappings_after(run(10, 1), place_of(run(10, 1))), 3U);
  set_cached(map, run(10, 1));
  EXPECT_EQ(map.mappings(), 3U);
  set_cached(map, run(11, 5));
  EXPECT_EQ(map.mappings(), 3U);
  set_cached(map, run(0, 10));
  EXPECT_EQ(map.mappings(), 2U);
  EXPECT_EQ(map.cached_chunks(), 16U);
  EXPECT_EQ(map.slack(), 0U);
}

TEST(ChunkMapTest, ClosingAGapCountsBothSeamsUntilTheKernelIsAsked) {
  ChunkMap map(1 * kChunksPerSegment);
  set_cached(map, run(10, 1));
  set_cached(map, run(12, 1));
  EXPECT_EQ(map.mappings(), 5U);
  set_cached(map, run(11, 1));
  EXPECT_EQ(map.mappings(), 5U);
  EXPECT_EQ(map.slack(), 1U);
  map.resync({ChunkIndex(0), ChunkIndex(10), ChunkIndex(13)});
  EXPECT_EQ(map.mappings(), 3U);
  EXPECT_EQ(map.slack(), 0U);
}

TEST(ChunkMapTest, OneMappingForAGibRemovesWhatIsInside) {
  ChunkMap map(1 * kChunksPerSegment);
  for (uint64_t i = 0; i < kChunksPerSegment; i += 2) set_cached(map, run(i, 1));
  EXPECT_EQ(map.mappings(), kChunksPerSegment);
  EXPECT_EQ(map.saved_if_whole(GibIndex(0)), kChunksPerSegment - 1);
  set_cached(map, map.gib_run(GibIndex(0)));
  EXPECT_EQ(map.mappings(), 1U);
}

TEST(ChunkMapTest, SegmentsMergeOnlyWhenNeighboursInTheFile) {
  ChunkMap scattered(3 * kChunksPerSegment);
  ChunkMap ordered(3 * kChunksPerSegment);
  for (uint64_t gib = 0; gib < 3; ++gib) {
    want(ordered, gib, ~Chunks());
    want(scattered, gib, ~Chunks(), segment_of(2 - gib));
  }
  EXPECT_EQ(ordered.plan(1), 1U);
  EXPECT_EQ(scattered.plan(1), 3U);
  EXPECT_EQ(ordered.run_from(ChunkIndex(0)).count, ordered.chunks());
  EXPECT_EQ(scattered.run_from(ChunkIndex(0)).count, kChunksPerSegment);
  EXPECT_EQ(scattered.place(ChunkIndex(1)), segment_of(2) + pcow::kWindowSize);
}

TEST(ChunkMapTest, PlanKeepsHolesWhileTheBudgetLasts) {
  ChunkMap map(4 * kChunksPerSegment);
  for (uint64_t gib = 0; gib < 4; ++gib) want(map, gib, alternating());
  map.plan(4 * kChunksPerSegment);
  EXPECT_EQ(map.cached_chunks(), 4 * kChunksPerSegment / 2);
  EXPECT_EQ(map.mappings(), 4 * kChunksPerSegment);
}

TEST(ChunkMapTest, PlanTakesWholeGibsWhereItSavesMost) {
  ChunkMap map(3 * kChunksPerSegment);
  want(map, 0, one(5));
  want(map, 1, alternating());
  want(map, 2, one(5));
  map.plan(16);
  EXPECT_EQ(map.cached_chunks(), kChunksPerSegment + 2);
  EXPECT_EQ(map.state(ChunkIndex(6)), ChunkState::kHole);
  EXPECT_LE(map.mappings(), 16U);
}

TEST(ChunkMapTest, PlanMayMissItsAim) {
  ChunkMap map(4 * kChunksPerSegment);
  want(map, 1, one(5), segment_of(8));
  EXPECT_EQ(map.plan(2), 3U);
  EXPECT_EQ(map.mappings(), 3U);
}

// Of a stripe set: each part of the segment lies in the next of `files`.
GibLayout striped_layout(const Chunks& chunks, uint64_t files, uint64_t unit) {
  GibLayout layout;
  for (uint64_t part = 0; part < kChunksPerSegment / unit; ++part) {
    const auto file = static_cast<uint32_t>(part % files);
    layout.segment.push_back({file, (part / files * unit + 1) * pcow::kWindowSize});
  }
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) {
    if (chunks[i]) layout.chunks[i] = {Kind::kWindow, pcow::place_in_segment(layout.segment, i)};
  }
  return layout;
}

TEST(ChunkMapTest, AStripeSetTakesAMappingForEachUnit) {
  constexpr uint64_t kUnit = 16;
  constexpr uint64_t kUnits = kChunksPerSegment / kUnit;
  ChunkMap map(kChunksPerSegment + kUnit + 1);
  map.want(GibIndex(0), striped_layout(alternating(), 4, kUnit));
  map.want(GibIndex(1), striped_layout(~Chunks(), 4, kUnit));
  EXPECT_EQ(map.plan(1), kUnits + 2);
  EXPECT_EQ(map.run_from(ChunkIndex(0)).count, kUnit);
  EXPECT_EQ(map.place(ChunkIndex(kUnit)), (FilePlace{1, pcow::kWindowSize}));
  EXPECT_EQ(map.saved_if_whole(GibIndex(0)), 0U);
  EXPECT_EQ(map.mappings_if_whole(GibIndex(0)), kUnits + 2);
  EXPECT_EQ(map.most_scattered_gib(), std::nullopt);
  const auto parts = map.parts_of(GibIndex(1));
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_EQ(parts[1].run.count, 1U);
}

// Where it saves nothing a GiB is not mapped whole.
TEST(ChunkMapTest, SmallUnitsAreNoReasonToMapHoles) {
  ChunkMap map(kChunksPerSegment);
  map.want(GibIndex(0), striped_layout(one(5), 2, 1));
  EXPECT_EQ(map.plan(1), 3U);
  EXPECT_EQ(map.cached_chunks(), 1U);
}

// Two layers, whose windows alternate.
GibLayout scattered_layout() {
  GibLayout layout;
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) {
    layout.chunks[i] = {Kind::kWindow, segment_of(2 + i % 2) + i * pcow::kWindowSize};
  }
  return layout;
}

TEST(ChunkMapTest, WindowsOfSeveralSegmentsAreNotOneMapping) {
  ChunkMap map(2 * kChunksPerSegment);
  want(map, 0, alternating());
  map.want(GibIndex(1), scattered_layout());
  EXPECT_EQ(map.plan(1), kChunksPerSegment + 1);
  EXPECT_EQ(map.most_scattered_gib(), GibIndex(1));
  EXPECT_EQ(map.place(ChunkIndex(kChunksPerSegment + 3)), segment_of(3) + 3 * pcow::kWindowSize);
  want(map, 1, ~Chunks());
  EXPECT_EQ(map.plan(1), 1U);
  EXPECT_EQ(map.most_scattered_gib(), std::nullopt);
}

// Also window 0, which only a raw base has.
TEST(ChunkMapTest, WindowsOfSeveralFilesAreNotOneMapping) {
  ChunkMap map(4);
  GibLayout layout;
  for (uint64_t i = 0; i < 4; ++i) {
    layout.chunks[i] = {Kind::kWindow, {i < 2 ? 1U : 2U, i * pcow::kWindowSize}};
  }
  map.want(GibIndex(0), layout);
  EXPECT_EQ(map.plan(1), 2U);
  EXPECT_EQ(map.cached_chunks(), 4U);
  EXPECT_EQ(map.run_from(ChunkIndex(0)).count, 2U);
  EXPECT_EQ(map.place(ChunkIndex(0)), (FilePlace{1, 0}));
}

TEST(ChunkMapTest, AChunkMayMoveToAnotherWindow) {
  ChunkMap map(kChunksPerSegment);
  set_cached(map, run(10, 3));
  EXPECT_EQ(map.mappings(), 3U);
  const FilePlace elsewhere = segment_of(4) + 11 * pcow::kWindowSize;
  EXPECT_EQ(map.mappings_after(run(11, 1), elsewhere), 5U);
  map.set_cached(run(11, 1), elsewhere);
  EXPECT_EQ(map.mappings(), 5U);
  EXPECT_EQ(map.cached_chunks(), 3U);
  EXPECT_EQ(map.place(ChunkIndex(11)), elsewhere);
  set_cached(map, run(10, 3));
  EXPECT_EQ(map.mappings(), 3U);
}

// The count kept step by step never falls below the count that the states alone demand.
TEST(ChunkMapTest, TheCountIsAnUpperBoundAfterAnyHistory) {
  std::mt19937_64 random(test::test_seed());
  ChunkMap map(4 * kChunksPerSegment);
  for (int step = 0; step < 2000; ++step) {
    const uint64_t gib = random() % 4;
    const uint64_t first = random() % kChunksPerSegment;
    const uint64_t count = 1 + random() % std::min<uint64_t>(4, kChunksPerSegment - first);
    const ChunkRun change = run(gib * kChunksPerSegment + first, count);
    const FilePlace place = place_of(change) + random() % 2 * 8 * kSegmentSize;
    const bool hole = random() % 4 == 0;
    const uint64_t announced =
        hole ? map.mappings_if_holes(change) : map.mappings_after(change, place);
    if (hole) {
      map.set_holes(change);
    } else {
      map.set_cached(change, place);
    }
    ASSERT_EQ(map.mappings(), announced);
    uint64_t least = 0;
    for (ChunkIndex at(0); at.value < map.chunks(); at = map.run_from(at).end()) ++least;
    ASSERT_GE(map.mappings(), least);
  }
}

}  // namespace
}  // namespace tiering
