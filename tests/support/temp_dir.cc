// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <filesystem>
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

}  // namespace test
