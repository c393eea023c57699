// SPDX-License-Identifier: BSD-3-Clause
//
// The kernel's own list of mappings, /proc/self/maps, and its limit.
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <vector>

namespace tiering::kernel {

struct Mapping {
  uint64_t start = 0;
  uint64_t end = 0;
};

// The mappings that overlap [start, end), ascending, clipped to it. About 1 µs per mapping of the
// process. Errors: kIo, kPermission, kNotFound.
pcow::Result<std::vector<Mapping>> mappings_in(uint64_t start, uint64_t end);

// vm.max_map_count; 65,530 when it cannot be read.
uint64_t max_map_count();

}  // namespace tiering::kernel
