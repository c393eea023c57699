// SPDX-License-Identifier: BSD-3-Clause
//
// userfaultfd in its asynchronous write-protect mode: the kernel notes writes in the page table and
// never blocks the writer; nobody reads the descriptor. What was written is asked for with
// PAGEMAP_SCAN (pagemap.h). And moving pages into memory that is tracked so (UFFDIO_MOVE, 6.8).
//
// The descriptor is opened UFFD_USER_MODE_ONLY, which needs no privilege whatever
// vm.unprivileged_userfaultfd says. The kernel resolves asynchronous faults before it looks at that
// restriction, so system calls and KVM that write to the memory are tracked all the same.
#pragma once

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace tiering::kernel {

class UserfaultfdWp {
 public:
  // Errors: kUnsupported (kernel without it, or without WP_ASYNC: before 6.7), kPermission
  // (a sandbox forbids it), kNoMemory.
  static pcow::Result<UserfaultfdWp> open();

  UserfaultfdWp(UserfaultfdWp&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), moves_(other.moves_) {}
  UserfaultfdWp& operator=(UserfaultfdWp&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(moves_, other.moves_);
    return *this;
  }
  UserfaultfdWp(const UserfaultfdWp&) = delete;
  UserfaultfdWp& operator=(const UserfaultfdWp&) = delete;
  // Ends the tracking of every range still registered.
  ~UserfaultfdWp();

  // Tracks writes in a range, whatever is mapped there. Registering again is harmless; mapping
  // something else over a part (MAP_FIXED) ends the tracking there. Errors: kBusy (another
  // userfaultfd has the range), kNoMemory, kInvalid.
  pcow::Result<void> register_range(void* address, size_t length) const;

  // Removes write protection without a fault; the pages count as written.
  // Needed before MADV_DONTNEED on DAX: a marker that stays behind on an empty entry there makes
  // the next access fault for ever (seen on Linux 6.12). Errors: kNoMemory, kInvalid.
  pcow::Result<void> unprotect(void* address, size_t length) const;

  // Whether the kernel has move_pages().
  bool moves() const { return moves_; }
  // Moves pages, all of them present, from anonymous memory at `from` to `address`, in a range that
  // is registered, anonymous, and empty; a 2 MiB page stays one where both addresses allow it. They
  // count as written. What has been moved when it fails reads as zeros at `from`. Errors: kBusy (a
  // page is in use elsewhere), kNoMemory, kInvalid.
  pcow::Result<void> move_pages(void* address, const void* from, size_t length) const;

 private:
  explicit UserfaultfdWp(int fd) : fd_(fd) {}

  int fd_ = -1;
  bool moves_ = false;
};

}  // namespace tiering::kernel
