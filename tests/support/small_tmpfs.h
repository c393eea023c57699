// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

#include "tests/support/temp_dir.h"

namespace test {

// A tmpfs of a given size, to run out of. Mounted in a mount namespace of the test program's own,
// so nothing outside sees it. Needs root (or CAP_SYS_ADMIN); throws when it is not allowed: a test
// that cannot run fails.
class SmallTmpfs {
 public:
  explicit SmallTmpfs(uint64_t size_bytes);
  ~SmallTmpfs();
  SmallTmpfs(const SmallTmpfs&) = delete;
  SmallTmpfs& operator=(const SmallTmpfs&) = delete;

  std::string file(const std::string& name) const { return dir_.file(name); }
  // Takes all free space with a file of the given name.
  void fill(const std::string& name) const;
  void resize(uint64_t size_bytes) const;

 private:
  TempDir dir_;
};

}  // namespace test
