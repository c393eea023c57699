// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/temp_dir.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace test {

namespace {

std::string usual_parent() {
  const char* base = std::getenv("PCOW_TEST_DIR");
  return base != nullptr ? base : "/dev/shm";
}

}  // namespace

TempDir::TempDir() : TempDir(usual_parent()) {}

TempDir::TempDir(const std::string& parent) : path_(parent + "/pcow-test-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) {
    throw std::runtime_error("cannot make a directory like " + path_);
  }
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace test
