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

std::string parent_without_dax() {
  const TempDir probe;
  const std::string path = probe.file("probe");
  std::ofstream(path).put('x');
  struct statx found = {};
  if (statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE, &found) != 0) {
    throw std::runtime_error("cannot look at " + path);
  }
  return (found.stx_attributes & STATX_ATTR_DAX) != 0 ? "/tmp" : usual_parent();
}

}  // namespace test
