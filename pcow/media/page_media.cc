// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/page_media.h"

#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

namespace pcow {

Result<void> PageMedia::write_impl(uint64_t offset, std::span<const iovec> parts) {
  std::vector<iovec> rest(parts.begin(), parts.end());
  size_t next = 0;
  while (next < rest.size()) {
    const int count = static_cast<int>(std::min<size_t>(rest.size() - next, IOV_MAX));
    const ssize_t n = pwritev(file().fd(), &rest[next], count, static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_error(
          errno, "cannot write '" + file().path() + "' at offset " + std::to_string(offset));
    }
    offset += static_cast<uint64_t>(n);
    // Step over what was written; a part may have been written by half.
    auto left = static_cast<size_t>(n);
    while (next < rest.size() && left >= rest[next].iov_len) left -= rest[next++].iov_len;
    if (left > 0) {
      rest[next].iov_base = static_cast<std::byte*>(rest[next].iov_base) + left;
      rest[next].iov_len -= left;
    }
  }
  return {};
}

Result<void> PageMedia::flush_impl() {
  while (fdatasync(file().fd()) != 0) {
    if (errno == EINTR) continue;
    return errno_error(errno, "cannot make '" + file().path() + "' durable");
  }
  return {};
}

}  // namespace pcow
