// SPDX-License-Identifier: BSD-3-Clause
//
// The policies of the engine as contestants, with the tracker of the engine; every plan is checked.
#pragma once

#include <memory>

#include "tools/tiersim/breaks.h"
#include "tools/tiersim/contestant.h"

namespace tiersim {

struct PolicyRunOptions {
  tiering::PolicyKind kind = tiering::PolicyKind::kHeat;
  tiering::Budget budget;
  uint64_t pages = 0;
  uint64_t watched_percent = 100;  // of the chunks, whose reads are seen in an epoch
  uint64_t window_percent = 0;     // of an epoch, in which accesses are seen; 0: AccessWindow
  uint64_t seed = 0;               // chooses them
  const Break* broken = nullptr;
};

std::unique_ptr<Contestant> make_policy_run(const PolicyRunOptions& options);

}  // namespace tiersim
