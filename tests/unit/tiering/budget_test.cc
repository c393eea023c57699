// SPDX-License-Identifier: BSD-3-Clause
//
// Whatever the history, the kernel mappings of a region stay within its budget: asserted on
// /proc/self/maps, not on the region's own count.
#include <tiering/region.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/test_seed.h"
#include "tests/unit/tiering/fixture.h"

namespace tiering::testing {
namespace {

using pcow::kChunksPerSegment;
using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;

class BudgetTest : public ImageTest {
 protected:
  static void expect_within(const Region& region, uint64_t budget) {
    const RegionStatus status = must(region.status());
    EXPECT_LE(kernel_mappings(region), status.mappings);
    EXPECT_LE(status.mappings, budget);
  }
};

std::vector<uint64_t> shuffled(uint64_t count, std::mt19937_64& random) {
  std::vector<uint64_t> order(count);
  std::iota(order.begin(), order.end(), uint64_t{0});
  std::ranges::shuffle(order, random);
  return order;
}

// Alternating chunks of 64 GiB in random order: the image's segments end up scattered over the
// file, each as fragmented as possible, and the budget is hardly more than one mapping a segment.
TEST_F(BudgetTest, AlternatingChunksOf64SegmentsFitASmallBudget) {
  constexpr uint64_t kGibs = 64;
  constexpr uint32_t kBudget = 160;
  create(kGibs * kGiB);
  std::mt19937_64 random(test::test_seed());
  const auto order = shuffled(kGibs * kChunksPerSegment / 2, random);
  {
    // One page per GiB, committed in random order, scatters the segments.
    const auto region = map_region(image());
    for (const uint64_t gib : shuffled(kGibs, random)) {
      set_mark(*region, gib * pcow::kPagesPerSegment, gib * kChunksPerSegment / 2 + 1);
      must(region->commit(false));
    }
  }
  {
    const auto region = map_region(image(), {.dram_size = 8 * kMiB, .mapping_budget = kBudget});
    for (size_t i = 0; i < order.size(); ++i) {
      set_mark(*region, order[i] * 2 * kPagesPerChunk, order[i] + 1);
      if ((i + 1) % 4096 != 0) continue;
      must(region->commit(true));
      expect_within(*region, kBudget);
      EXPECT_LE(must(region->status()).dram_resident_bytes, 8 * kMiB);
    }
    for (const uint64_t slot : order) {
      ASSERT_EQ(mark(*region, slot * 2 * kPagesPerChunk), slot + 1);
    }
  }
  close();
  open();
  // The same image opened: exact while the budget lasts, in whole GiBs otherwise.
  for (const uint32_t budget : {kBudget, uint32_t{4096}, uint32_t{40000}}) {
    const auto region = map_region(image(), {.mapping_budget = budget});
    expect_within(*region, budget);
    for (size_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(mark(*region, order[i] * 2 * kPagesPerChunk), order[i] + 1);
      ASSERT_EQ(mark(*region, order[i] * 2 * kPagesPerChunk + kPagesPerChunk), 0U);
    }
  }
  const auto refused = Region::map(image(), {.mapping_budget = 16});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, pcow::Code::kNoMemory);
  EXPECT_NE(refused.error().message.find("mapping-budget=16 is too small"), std::string::npos);
  close();
}

// Chunks in random order close gaps between cached runs again and again: the history in which the
// kernel merges least. With a large budget nothing is folded, with a small one much is.
TEST_F(BudgetTest, ClosingGapsInRandomOrderStaysWithinTheCount) {
  constexpr uint64_t kGibs = 2;
  create(kGibs * kGiB);
  std::mt19937_64 random(test::test_seed());
  for (const uint32_t budget : {uint32_t{64}, kDefaultMappingBudget}) {
    close();
    must(pcow::Image::create(path(), {.virtual_size = kGibs * kGiB, .overwrite = true}));
    open();
    const auto region = map_region(image(), {.dram_size = kPageSize, .mapping_budget = budget});
    const auto order = shuffled(kGibs * kChunksPerSegment, random);
    for (size_t i = 0; i < order.size(); ++i) {
      set_mark(*region, order[i] * kPagesPerChunk + 3, order[i] + 1);
      if (i % 8 != 7) continue;
      must(region->commit(true));
      // A store to each cached run gives each an identity of its own in the kernel (its anon_vma),
      // which keeps it from merging with others later.
      for (size_t j = 0; j <= i; ++j) set_mark(*region, order[j] * kPagesPerChunk + 4, i + 1);
      expect_within(*region, budget);
    }
    for (const uint64_t chunk : order) {
      ASSERT_EQ(mark(*region, chunk * kPagesPerChunk + 3), chunk + 1);
    }
  }
}

// With the default budget nothing is ever folded, so that the count is only what the states and
// the kernel's merging make it.
TEST_F(BudgetTest, TheCountIsTheKernelsWhenNoGapCloses) {
  create(2 * kGiB);
  const auto region = map_region(image(), {.dram_size = kPageSize});
  for (uint64_t chunk = 0; chunk < 1024; chunk += 3) set_mark(*region, chunk * kPagesPerChunk, 1);
  must(region->commit(true));
  const RegionStatus status = must(region->status());
  EXPECT_EQ(status.mappings, kernel_mappings(*region));
  EXPECT_GT(status.mappings, 600U);
}

}  // namespace
}  // namespace tiering::testing
