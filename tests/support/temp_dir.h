// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

namespace test {

// A fresh directory, removed with its content at the end of the scope. On tmpfs by default:
// $PCOW_TEST_DIR names another place (an ext4 or dax mount).
class TempDir {
 public:
  TempDir();
  explicit TempDir(const std::string& parent);
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace test
