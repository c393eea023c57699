// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <thread>
#include <utility>

namespace tierctl {
namespace {

using pcow::Code;
using pcow::make_error;

constexpr size_t kLineBytesMax = size_t{16} << 20;
constexpr std::chrono::milliseconds kRetryInterval{20};

bool passed(Deadline deadline) { return std::chrono::steady_clock::now() >= deadline; }

pcow::Error connect_error(int error, const std::string& path) {
  const std::string socket = "the QMP socket '" + path + "'";
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return make_error(Code::kNotFound,
                        socket + " does not exist; check the path, or start QEMU with -qmp unix:" +
                            path + ",server=on,wait=off");
    case ECONNREFUSED:
      return make_error(Code::kNotFound, "nothing listens on " + socket +
                                             ": its QEMU has ended, or it is not a stream socket");
    case EACCES:
    case EPERM:
      return make_error(Code::kPermission,
                        "no permission to connect to " + socket +
                            "; run tierctl as root or as the user that runs QEMU");
    case EAGAIN:
      return make_error(Code::kBusy, "too many clients wait for " + socket +
                                         "; end the others: QEMU serves one at a time");
    default:
      return make_error(
          Code::kIo, "cannot connect to " + socket + ": " + std::generic_category().message(error));
  }
}

}  // namespace

pcow::Result<UnixSocket> UnixSocket::connect(const std::string& path, Deadline deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return make_error(Code::kInvalid,
                      "the socket path '" + path + "' is " + (path.empty() ? "empty" : "too long") +
                          "; it must have 1 to " + std::to_string(sizeof(address.sun_path) - 1) +
                          " bytes (change the directory and use a relative path)");
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return pcow::errno_error(errno, "cannot create a socket");
  UnixSocket socket(fd);
  while (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    if (error == EINTR || (error == EAGAIN && !passed(deadline))) {
      std::this_thread::sleep_for(kRetryInterval);
      continue;
    }
    return connect_error(error, path);
  }
  return socket;
}

UnixSocket::UnixSocket(UnixSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), received_(std::move(other.received_)) {}

UnixSocket& UnixSocket::operator=(UnixSocket&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(received_, other.received_);
  return *this;
}

UnixSocket::~UnixSocket() {
  if (fd_ >= 0) ::close(fd_);
}

pcow::Result<void> UnixSocket::wait_for(short events, Deadline deadline) const {
  while (true) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return make_error(Code::kBusy, "no answer in time");
    pollfd poll_fd{.fd = fd_, .events = events, .revents = 0};
    constexpr int64_t kPollMsMax = 1'000'000;
    const int ready = ::poll(&poll_fd, 1, static_cast<int>(std::min(left.count(), kPollMsMax)));
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return pcow::errno_error(errno, "cannot wait for the socket");
  }
}

pcow::Result<void> UnixSocket::send(std::string_view text, Deadline deadline) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      text.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      PCOW_TRY(wait_for(POLLOUT, deadline));
    } else if (errno != EINTR) {
      return make_error(Code::kIo, "the connection was closed");
    }
  }
  return {};
}

pcow::Result<std::string> UnixSocket::read_line(Deadline deadline) {
  size_t searched = 0;
  while (true) {
    if (const size_t end = received_.find('\n', searched); end != std::string::npos) {
      std::string line = received_.substr(0, end);
      received_.erase(0, end + 1);
      return line;
    }
    searched = received_.size();
    if (searched > kLineBytesMax) return make_error(Code::kInvalid, "the answer is too long");
    std::array<char, 16384> buffer;
    const ssize_t got = ::recv(fd_, buffer.data(), buffer.size(), 0);
    if (got > 0) {
      received_.append(buffer.data(), static_cast<size_t>(got));
    } else if (got < 0 && errno == EAGAIN) {
      PCOW_TRY(wait_for(POLLIN, deadline));
    } else if (got == 0 || errno != EINTR) {
      return make_error(Code::kIo, "the connection was closed");
    }
  }
}

}  // namespace tierctl
