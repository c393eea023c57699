// SPDX-License-Identifier: BSD-3-Clause
//
// What distinguishes one moving policy from another: how it values a page in DRAM.
#pragma once

#include <cstdint>

#include "tiering/policy/policy.h"

namespace tiering {

struct Ranking {
  static constexpr uint32_t kScoreMax = 0xffff;

  // What the page is worth in DRAM, up to kScoreMax.
  uint32_t (*score)(PageRecord record);
  // Whether a page that the last epoch accessed is worth promoting at all.
  bool (*admits)(PageRecord record);
  // Whether a page with the first score may replace one with the second: the hysteresis.
  bool (*beats)(uint32_t candidate, uint32_t resident);
};

extern const Ranking kAgeRanking;
extern const Ranking kHeatRanking;
extern const Ranking kCmqRanking;

// Null for policies that move nothing.
const Ranking* ranking_of(PolicyKind kind);

}  // namespace tiering
