// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/kernel/page_faults.h"

#include <sys/resource.h>

#include <limits>

namespace tiering::kernel {

uint64_t page_faults() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return std::numeric_limits<uint64_t>::max();
  return static_cast<uint64_t>(usage.ru_minflt) + static_cast<uint64_t>(usage.ru_majflt);
}

}  // namespace tiering::kernel
