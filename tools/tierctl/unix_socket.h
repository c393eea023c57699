// SPDX-License-Identifier: BSD-3-Clause
//
// A connected Unix stream socket that speaks lines. The one place that sees errno of sockets.
#pragma once

#include <pcow/status.h>
#include <chrono>
#include <string>
#include <string_view>

namespace tierctl {

using Deadline = std::chrono::steady_clock::time_point;

class UnixSocket {
 public:
  // Errors: kNotFound, kPermission, kInvalid (path too long), kBusy (the queue of waiting clients
  // is full until the deadline), kIo. Messages name `path` and are complete.
  static pcow::Result<UnixSocket> connect(const std::string& path, Deadline deadline);

  UnixSocket(UnixSocket&& other) noexcept;
  UnixSocket& operator=(UnixSocket&& other) noexcept;
  UnixSocket(const UnixSocket&) = delete;
  UnixSocket& operator=(const UnixSocket&) = delete;
  ~UnixSocket();

  // Errors: kBusy (deadline passed), kIo (closed by the peer). The message says what happened
  // ("the connection was closed"), the caller adds to whom.
  pcow::Result<void> send(std::string_view text, Deadline deadline);
  // The next line without its end. Errors as send(), and kInvalid for a line beyond 16 MiB.
  pcow::Result<std::string> read_line(Deadline deadline);

 private:
  explicit UnixSocket(int fd) : fd_(fd) {}
  pcow::Result<void> wait_for(short events, Deadline deadline) const;

  int fd_ = -1;
  std::string received_;  // bytes after the last line that was returned
};

}  // namespace tierctl
