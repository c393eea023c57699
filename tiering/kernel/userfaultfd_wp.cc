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
  uffdio_api api{};
  api.api = UFFD_API;
  // WP_UNPOPULATED because anonymous memory uses protection markers, and thereby counts as
  // trackable for PAGEMAP_SCAN, only with it.
  api.features = kFeatureWpAsync | kFeatureWpUnpopulated | kFeatureWpFileMemory;
  if (ioctl(result.fd_, UFFDIO_API, &api) != 0) {
    const int error = errno;
    if (error == EINVAL) {
      return pcow::Error{pcow::Code::kUnsupported, error,
                         "the kernel has no asynchronous write tracking (Linux 6.7)"};
    }
    return pcow::errno_error(error, "cannot set up a userfaultfd");
  }
  return result;
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

}  // namespace tiering::kernel
