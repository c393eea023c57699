// SPDX-License-Identifier: BSD-3-Clause
//
// Generated traces. The same arguments give the same trace on every machine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tools/tiersim/trace.h"

namespace tiersim {

struct GeneratorOptions {
  uint64_t pages = 0;
  uint64_t epochs = 0;
  uint64_t accesses_per_page = 0;  // on average over the pages, in an epoch
  uint64_t seed = 0;
};

struct Generator {
  const char* name;
  const char* what;
  std::unique_ptr<TraceSource> (*make)(const GeneratorOptions& options);
};

std::span<const Generator> generators();

}  // namespace tiersim
