// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/kernel/userfaultfd_wp.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <string>

namespace tiering::kernel {
namespace {

// Named here because the headers of Debian 12 (Linux 6.1) lack them.
constexpr int kUserModeOnly = 1;                        // UFFD_USER_MODE_ONLY, Linux 5.11
constexpr uint64_t kFeatureWpUnpopulated = 1ULL << 13;  // Linux 6.4
constexpr uint64_t kFeatureWpAsync = 1ULL << 15;        // Linux 6.7
constexpr uint64_t kFeatureWpFileMemory = 1ULL << 12;   // UFFD_FEATURE_WP_HUGETLBFS_SHMEM, 5.19
constexpr uint64_t kFeatureMove = 1ULL << 16;           // Linux 6.8

struct MoveRequest {  // struct uffdio_move
  uint64_t to = 0;
  uint64_t from = 0;
  uint64_t length = 0;
  uint64_t mode = 0;
  int64_t moved = 0;  // bytes, or an error
};
constexpr unsigned long kMove = _IOWR(UFFDIO, 0x05, MoveRequest);  // UFFDIO_MOVE

pcow::Error open_error(int error) {
  if (error == EPERM) {
    return pcow::Error{pcow::Code::kPermission, error,
                       "userfaultfd is not permitted; a sandbox or seccomp filter forbids it: "
                       "allow the system call"};
  }
  if (error == ENOSYS || error == EINVAL) {
    return pcow::Error{pcow::Code::kUnsupported, error,
                       "the kernel has no userfaultfd for unprivileged use (Linux 5.11)"};
  }
  return pcow::errno_error(error, "cannot open a userfaultfd");
}

}  // namespace

pcow::Result<UserfaultfdWp> UserfaultfdWp::open() {
  const long fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly);
  if (fd < 0) return open_error(errno);
  UserfaultfdWp result(static_cast<int>(fd));
  // WP_UNPOPULATED because anonymous memory uses protection markers, and thereby counts as
  // trackable for PAGEMAP_SCAN, only with it.
  constexpr uint64_t kNeeded = kFeatureWpAsync | kFeatureWpUnpopulated | kFeatureWpFileMemory;
  // A kernel that lacks a feature refuses all, and may be asked again.
  for (const uint64_t features : {kNeeded | kFeatureMove, kNeeded}) {
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = features;
    if (ioctl(result.fd_, UFFDIO_API, &api) == 0) {
      result.moves_ = features != kNeeded;
      return result;
    }
    if (errno != EINVAL) return pcow::errno_error(errno, "cannot set up a userfaultfd");
  }
  return pcow::Error{pcow::Code::kUnsupported, EINVAL,
                     "the kernel has no asynchronous write tracking (Linux 6.7)"};
}

UserfaultfdWp::~UserfaultfdWp() {
  if (fd_ >= 0) close(fd_);
}

pcow::Result<void> UserfaultfdWp::register_range(void* address, size_t length) const {
  uffdio_register request{};
  request.range.start = reinterpret_cast<uintptr_t>(address);
  request.range.len = length;
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (ioctl(fd_, UFFDIO_REGISTER, &request) == 0) return {};
  return pcow::errno_error(errno, "cannot track writes to the region (userfaultfd)");
}

pcow::Result<void> UserfaultfdWp::unprotect(void* address, size_t length) const {
  uffdio_writeprotect request{};
  request.range.start = reinterpret_cast<uintptr_t>(address);
  request.range.len = length;
  request.mode = 0;
  // EAGAIN: the address space is changing under another thread (fork, exit); the call is
  // idempotent.
  while (ioctl(fd_, UFFDIO_WRITEPROTECT, &request) != 0) {
    if (errno == EAGAIN) continue;
    return pcow::errno_error(errno, "cannot end the write protection of pages (userfaultfd)");
  }
  return {};
}

pcow::Result<void> UserfaultfdWp::move_pages(void* address, const void* from, size_t length) const {
  for (size_t done = 0; done < length;) {
    MoveRequest request{.to = reinterpret_cast<uintptr_t>(address) + done,
                        .from = reinterpret_cast<uintptr_t>(from) + done,
                        .length = length - done};
    if (ioctl(fd_, kMove, &request) == 0) return {};
    if (request.moved > 0) done += static_cast<size_t>(request.moved);
    // EAGAIN: cut short, or the page is being looked at for a moment.
    if (errno == EAGAIN) continue;
    return pcow::errno_error(errno, "cannot move pages (userfaultfd)");
  }
  return {};
}

}  // namespace tiering::kernel
