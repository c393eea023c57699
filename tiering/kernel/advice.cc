// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/kernel/advice.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace tiering::kernel {
namespace {

constexpr size_t kBatch = 1024;  // UIO_MAXIOV

pcow::Result<void> advise(void* address, size_t length, int advice, const char* what) {
  // EAGAIN: a kernel resource was short for a moment.
  while (madvise(address, length, advice) != 0) {
    if (errno == EAGAIN) continue;
    return pcow::errno_error(errno, what);
  }
  return {};
}

// The same for a feature that a kernel may be built without.
pcow::Result<void> advise_if_known(void* address, size_t length, int advice, const char* what) {
  auto result = advise(address, length, advice, what);
  if (!result && result.error().sys_errno == EINVAL) return {};
  return result;
}

class PidFd {
 public:
  PidFd() : fd_(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0))) {}
  ~PidFd() {
    if (fd_ >= 0) close(fd_);
  }
  PidFd(const PidFd&) = delete;
  PidFd& operator=(const PidFd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Drops a leading part of `ranges` in one call; returns how many ranges are done.
size_t drop_batch(int pid_fd, std::span<const AddressRange> ranges) {
  std::array<iovec, kBatch> vec;
  const size_t count = std::min(ranges.size(), vec.size());
  for (size_t i = 0; i < count; ++i) vec.at(i) = {ranges[i].start, ranges[i].length};
  const long bytes = syscall(SYS_process_madvise, pid_fd, vec.data(), count, MADV_DONTNEED, 0);
  uint64_t dropped = bytes > 0 ? static_cast<uint64_t>(bytes) : 0;
  size_t done = 0;
  while (done < count && dropped >= ranges[done].length) dropped -= ranges[done++].length;
  return done;
}

}  // namespace

pcow::Result<void> advise_huge_pages(void* address, size_t length, HugePages huge) {
  const int advice = huge == HugePages::kAllowed ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
  return advise_if_known(address, length, advice,
                         "cannot set the huge page attribute of the region");
}

pcow::Result<void> advise_no_fork(void* address, size_t length) {
  return advise(address, length, MADV_DONTFORK, "cannot keep the region out of child processes");
}

pcow::Result<void> advise_no_merge(void* address, size_t length) {
  return advise_if_known(address, length, MADV_UNMERGEABLE,
                         "cannot keep the region out of the merging of equal pages");
}

pcow::Result<void> advise_dump(void* address, size_t length, bool dump) {
  return advise(address, length, dump ? MADV_DODUMP : MADV_DONTDUMP,
                "cannot set the core dump attribute of the region");
}

pcow::Result<void> drop_pages(std::span<const AddressRange> ranges) {
  if (ranges.size() > 1) {
    const PidFd self;
    while (self.get() >= 0 && !ranges.empty()) {
      const size_t done = drop_batch(self.get(), ranges);
      if (done == 0) break;  // not allowed here, or the first range fails: say so below
      ranges = ranges.subspan(done);
    }
  }
  for (const AddressRange& range : ranges) {
    PCOW_TRY(advise(range.start, range.length, MADV_DONTNEED, "cannot drop pages"));
  }
  return {};
}

pcow::Result<void> populate_for_writing(AddressRange range) {
#ifndef MADV_POPULATE_WRITE
  constexpr int MADV_POPULATE_WRITE = 23;  // headers older than the kernel
#endif
  constexpr const char* kWhat = "cannot copy pages to DRAM";
  while (madvise(range.start, range.length, MADV_POPULATE_WRITE) != 0) {
    if (errno == EAGAIN || errno == EINTR) continue;
    if (errno == EINVAL) {
      return pcow::make_error(pcow::Code::kUnsupported,
                              "cannot copy pages to DRAM: that needs Linux 5.14 or newer");
    }
    // EFAULT: an access would have been answered with SIGBUS.
    if (errno == EFAULT || errno == EHWPOISON) return pcow::errno_error(EIO, kWhat);
    return pcow::errno_error(errno, kWhat);
  }
  return {};
}

}  // namespace tiering::kernel
