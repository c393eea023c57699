// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/test_seed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

namespace test {

unsigned long test_seed() {
  const char* text = std::getenv("PCOW_TEST_SEED");
  const unsigned long seed =
      text != nullptr ? std::strtoul(text, nullptr, 0) : std::random_device{}();
  std::printf("seed: PCOW_TEST_SEED=%lu\n", seed);
  ::testing::Test::RecordProperty("seed", std::to_string(seed));
  return seed;
}

int history_length(int steps) {
  const char* text = std::getenv("PCOW_HISTORY_DIVISOR");
  const long divisor = text != nullptr ? std::strtol(text, nullptr, 0) : 1;
  return static_cast<int>(steps / std::max(divisor, 1L));
}

}  // namespace test
