// SPDX-License-Identifier: BSD-3-Clause
//
// The worst case for designs that map page by page: every other page of a 16 GiB image touched in
// random order. Two million pages would need four million mappings that way.
#include <tiering/region.h>

#include <algorithm>
#include <cstdio>
#include <numeric>
#include <random>
#include <vector>

#include "tests/support/test_seed.h"
#include "tests/unit/tiering/fixture.h"

namespace tiering::testing {
namespace {

using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;

class HeavyBudgetTest : public ImageTest {};

TEST_F(HeavyBudgetTest, EveryOtherPageOf16GiBInRandomOrder) {
  constexpr uint64_t kSize = 16 * kGiB;
  constexpr uint64_t kRounds = 32;
  constexpr uint64_t kDram = 128 * kMiB;
  create(kSize);
  std::mt19937_64 random(test::test_seed());
  std::vector<uint32_t> order(kSize / kPageSize / 2);
  std::iota(order.begin(), order.end(), 0U);
  std::ranges::shuffle(order, random);
  uint64_t most = 0;
  {
    const auto region = map_region(image(), {.dram_size = kDram});
    for (uint64_t round = 0; round < kRounds; ++round) {
      const uint64_t step = order.size() / kRounds;
      for (uint64_t i = round * step; i < (round + 1) * step; ++i) {
        set_mark(*region, uint64_t{order[i]} * 2, order[i] + uint64_t{1});
      }
      must(region->commit(true));
      const RegionStatus status = must(region->status());
      const uint64_t real = kernel_mappings(*region);
      ASSERT_LE(real, status.mappings);
      ASSERT_LE(status.mappings, kDefaultMappingBudget);
      ASSERT_LE(status.dram_resident_bytes, kDram);
      most = std::max(most, real);
    }
    for (const uint32_t slot : order) {
      ASSERT_EQ(mark(*region, uint64_t{slot} * 2), slot + uint64_t{1});
    }
  }
  EXPECT_EQ(image().info().allocated_bytes, order.size() * kPageSize);
  std::printf("most kernel mappings: %llu of %u\n", static_cast<unsigned long long>(most),
              kDefaultMappingBudget);
  close();
}

}  // namespace
}  // namespace tiering::testing
