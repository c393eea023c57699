// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/kernel/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <pcow/units.h>
#include <cerrno>

namespace tiering::kernel {
namespace {

// struct pm_scan_arg of <linux/fs.h>; the headers of Debian 12 (Linux 6.1) lack it.
struct ScanArgument {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vec;
  uint64_t vec_len;
  uint64_t max_pages;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_anyof_mask;
  uint64_t return_mask;
};
static_assert(sizeof(ScanArgument) == 96);

constexpr uint64_t kScanWpMatching = 1 << 0;  // PM_SCAN_WP_MATCHING
constexpr uint64_t kScanCheckAsync = 1 << 1;  // PM_SCAN_CHECK_WPASYNC
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArgument);

}  // namespace

pcow::Result<Pagemap> Pagemap::open() {
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return pcow::errno_error(errno, "cannot open '/proc/self/pagemap'");
  return Pagemap(fd);
}

Pagemap::~Pagemap() {
  if (fd_ >= 0) close(fd_);
}

pcow::Result<ScanResult> Pagemap::scan(uint64_t start, uint64_t end, const ScanFilter& filter,
                                       std::span<PageRegion> out) const {
  ScanArgument argument{};
  argument.size = sizeof(argument);
  argument.flags =
      (filter.rearm ? kScanWpMatching : 0) | (filter.rearm || filter.tracked ? kScanCheckAsync : 0);
  argument.start = start;
  argument.end = end;
  argument.vec = reinterpret_cast<uintptr_t>(out.data());
  argument.vec_len = out.size();
  argument.category_mask = filter.all_of | filter.none_of;
  argument.category_inverted = filter.none_of;
  argument.category_anyof_mask = filter.any_of;
  argument.return_mask = filter.returned;
  const int count = ioctl(fd_, kPagemapScan, &argument);
  if (count >= 0) return ScanResult{static_cast<size_t>(count), argument.walk_end};
  const int error = errno;
  if (error == ENOTTY || error == ENOSYS) {
    return pcow::Error{pcow::Code::kUnsupported, error,
                       "the kernel has no PAGEMAP_SCAN (Linux 6.7)"};
  }
  if (error == EPERM) {
    return pcow::Error{pcow::Code::kPermission, error,
                       "part of the region is not tracked for writes any more: something mapped "
                       "over it, or it was unregistered"};
  }
  return pcow::errno_error(error, "cannot scan '/proc/self/pagemap'");
}

pcow::Result<void> Pagemap::read_entries(uint64_t start, std::span<uint64_t> out) const {
  auto bytes = std::as_writable_bytes(out);
  auto offset = static_cast<off_t>(start / pcow::kPageSize * sizeof(uint64_t));
  while (!bytes.empty()) {
    const ssize_t got = pread(fd_, bytes.data(), bytes.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return pcow::errno_error(got < 0 ? errno : EIO, "cannot read '/proc/self/pagemap'");
    }
    bytes = bytes.subspan(static_cast<size_t>(got));
    offset += got;
  }
  return {};
}

}  // namespace tiering::kernel
