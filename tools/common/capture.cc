// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/capture.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "tools/common/failure.h"

namespace tools {

Capture::Capture(std::string program) : program_(std::move(program)), file_(std::tmpfile()) {
  if (file_ == nullptr) {
    throw Failure(pcow::errno_error(errno, "cannot create a temporary file").message);
  }
}

std::string Capture::text() const {
  std::string all;
  std::array<char, 4096> part;
  while (true) {
    const ssize_t n = pread(fd(), part.data(), part.size(), static_cast<off_t>(all.size()));
    if (n == 0) return all;
    if (n > 0) {
      all.append(part.data(), static_cast<size_t>(n));
    } else if (errno != EINTR) {
      throw Failure(pcow::errno_error(errno, "cannot read what " + program_ + " printed").message);
    }
  }
}

}  // namespace tools
