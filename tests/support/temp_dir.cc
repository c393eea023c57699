// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/temp_dir.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <stdexcept>

namespace test {

TempDir::TempDir() {
  const char* base = std::getenv("PCOW_TEST_DIR");
  path_ = std::string(base != nullptr ? base : "/dev/shm") + "/pcow-test-XXXXXX";
  if (mkdtemp(path_.data()) == nullptr) {
    throw std::runtime_error("cannot make a directory like " + path_);
  }
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

unsigned long test_seed() {
  const char* text = std::getenv("PCOW_TEST_SEED");
  const unsigned long seed =
      text != nullptr ? std::strtoul(text, nullptr, 0) : std::random_device{}();
  std::printf("seed: PCOW_TEST_SEED=%lu\n", seed);
  ::testing::Test::RecordProperty("seed", std::to_string(seed));
  return seed;
}

}  // namespace test
