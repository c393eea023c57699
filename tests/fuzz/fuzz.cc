// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/fuzz.h"

#include <cstdio>
#include <cstdlib>

namespace fuzz {

void require(bool kept, const std::string& promise) {
  if (kept) return;
  std::fprintf(stderr, "broken promise: %s\n", promise.c_str());
  std::abort();
}

}  // namespace fuzz
