// SPDX-License-Identifier: BSD-3-Clause
//
// What a child process prints: a file that nobody else sees.
#pragma once

#include <cstdio>
#include <string>

namespace tools {

class Capture {
 public:
  // `program` is named in errors. Throws Failure.
  explicit Capture(std::string program);
  ~Capture() { std::fclose(file_); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  int fd() const { return fileno(file_); }
  // All that was written to it. Throws Failure, and std::bad_alloc.
  std::string text() const;

 private:
  std::string program_;
  FILE* file_;
};

}  // namespace tools
