// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/copy.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "tools/common/failure.h"

namespace pcow_img {
namespace {

[[noreturn]] void fail_interrupted() { throw tools::Failure("interrupted; nothing was created"); }

// Returns false when a signal that is held back came first.
bool wait_readable(int from, const tools::SignalHold* hold) {
  if (hold != nullptr) return hold->wait_readable(from);
  pollfd wanted = {from, POLLIN, 0};
  while (poll(&wanted, 1, -1) < 0 && errno == EINTR) {
  }
  return true;
}

// Fills `buffer` as far as the stream goes.
size_t read_stream(int from, std::span<std::byte> buffer, const tools::SignalHold* hold) {
  size_t filled = 0;
  while (filled < buffer.size()) {
    if (!wait_readable(from, hold)) fail_interrupted();
    const ssize_t n = read(from, &buffer[filled], buffer.size() - filled);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) {
      throw tools::Failure(pcow::errno_error(errno, "cannot read the standard input").message);
    }
    if (n == 0) break;
    filled += static_cast<size_t>(n);
  }
  return filled;
}

}  // namespace

void copy_content(const Content& from, Writer& to, tools::Progress& progress,
                  const tools::SignalHold* hold) {
  std::vector<std::byte> buffer(kCopyStep);
  const uint64_t end = from.size();
  for (uint64_t at = 0; at < end;) {
    if (hold != nullptr && hold->pending()) fail_interrupted();
    progress.update(at, end);
    const Extent run = from.extent(at);
    const uint64_t length = std::min(run.length, end - at);
    if (!run.data) {
      to.hole(at, length);
      at += length;
      continue;
    }
    const auto part = std::span(buffer).first(std::min(length, kCopyStep));
    from.read(at, part);
    to.data(at, part);
    at += part.size();
  }
  to.finish();
  progress.update(end, end);
}

uint64_t copy_stream(int from, Writer& to, const tools::SignalHold* hold) {
  std::vector<std::byte> buffer(kCopyStep);
  uint64_t total = 0;
  while (true) {
    const size_t filled = read_stream(from, buffer, hold);
    if (filled > 0) to.data(total, std::span(buffer).first(filled));
    total += filled;
    if (filled < buffer.size()) break;
  }
  if (total == 0) throw tools::Failure("the standard input is empty");
  to.finish();
  return total;
}

}  // namespace pcow_img
