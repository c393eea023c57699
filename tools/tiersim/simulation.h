// SPDX-License-Identifier: BSD-3-Clause
//
// Policies and baselines side by side over one trace.
#pragma once

#include <vector>

#include "tools/tiersim/breaks.h"
#include "tools/tiersim/report.h"

namespace tiersim {

struct SimulationOptions {
  std::vector<tiering::PolicyKind> policies;
  uint64_t dram_pages = 0;  // 0: a quarter of the trace's pages
  uint64_t high_percent = 98;
  uint64_t low_percent = 95;
  uint64_t move_pages = 0;  // an epoch; 0: a quarter of DRAM
  uint64_t watched_percent = 100;
  uint64_t window_percent = 0;  // 0: AccessWindow
  uint64_t cache_bytes = 0;     // 0: a 256th of the footprint
  uint64_t seed = 0;
  const Break* broken = nullptr;  // of its policy
};

// The first quarter of the epochs is the warm-up.
Section simulate(const std::string& name, TraceSource& trace, const SimulationOptions& options);

}  // namespace tiersim
