// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/kernel/soft_dirty.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <pcow/units.h>
#include <cerrno>

#include "tiering/kernel/pagemap.h"

namespace tiering::kernel {
namespace {

pcow::Result<bool> page_is_soft_dirty(const Pagemap& pagemap, const void* page) {
  uint64_t entry = 0;
  PCOW_TRY(pagemap.read_entries(reinterpret_cast<uintptr_t>(page), {&entry, 1}));
  return (entry & kEntrySoftDirty) != 0;
}

}  // namespace

pcow::Result<void> clear_soft_dirty() {
  const int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return pcow::errno_error(errno, "cannot open '/proc/self/clear_refs'");
  const ssize_t written = write(fd, "4", 1);
  const int error = errno;
  close(fd);
  if (written == 1) return {};
  if (error == EINVAL) {
    return pcow::Error{pcow::Code::kUnsupported, error,
                       "the kernel has no soft-dirty tracking (CONFIG_MEM_SOFT_DIRTY)"};
  }
  return pcow::errno_error(error, "cannot write '/proc/self/clear_refs'");
}

pcow::Result<bool> probe_soft_dirty() {
  PCOW_TRY_ASSIGN(const Pagemap pagemap, Pagemap::open());
  void* page =
      mmap(nullptr, pcow::kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return pcow::errno_error(errno, "cannot map a page");
  auto* word = static_cast<volatile int*>(page);
  *word = 1;
  const auto probe = [&]() -> pcow::Result<bool> {
    PCOW_TRY(clear_soft_dirty());
    PCOW_TRY_ASSIGN(const bool before, page_is_soft_dirty(pagemap, page));
    *word = 2;
    PCOW_TRY_ASSIGN(const bool after, page_is_soft_dirty(pagemap, page));
    return !before && after;
  };
  auto result = probe();
  munmap(page, pcow::kPageSize);
  return result;
}

}  // namespace tiering::kernel
