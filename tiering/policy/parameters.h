// SPDX-License-Identifier: BSD-3-Clause
//
// What a user sets of a policy, and the budget that follows from it.
#pragma once

#include <pcow/status.h>
#include <chrono>
#include <cstdint>

#include "tiering/policy/policy.h"

namespace tiering {

struct PolicyParameters {
  PolicyKind kind = PolicyKind::kOff;
  uint64_t dram_size = 0;                    // bytes, the hard limit; 0: none
  uint32_t high_percent = 95;                // of it: above that, pages are demoted …
  uint32_t low_percent = 85;                 // … down to this; promotions fill up to it
  uint64_t migrate_rate = 500 * pcow::kMiB;  // bytes a second, in both directions together

  bool operator==(const PolicyParameters&) const = default;
};

// Errors: kInvalid, for a region of so many bytes.
pcow::Result<void> check_parameters(const PolicyParameters& parameters, uint64_t region_bytes);

// What one plan moves at most, whatever the rate, so that planning takes some MiB of memory at
// most.
inline constexpr uint64_t kMovesMax = pcow::kGiB / pcow::kPageSize;

// Pages that may be moved in so much time, up to kMovesMax. Parts of pages add up.
double moves_in(const PolicyParameters& parameters, std::chrono::nanoseconds elapsed);

// REQUIRES: check_parameters().
Budget budget_of(const PolicyParameters& parameters, uint64_t region_bytes, uint64_t move_pages);

}  // namespace tiering
