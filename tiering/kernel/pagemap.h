// SPDX-License-Identifier: BSD-3-Clause
//
// /proc/self/pagemap: what the page table says about a range. Two ways in: the PAGEMAP_SCAN ioctl
// (Linux 6.7), which filters and re-arms write tracking, and the array of 64-bit entries that every
// kernel has.
#pragma once

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace tiering::kernel {

// Categories of PAGEMAP_SCAN (PAGE_IS_*). Traps, all seen in practice:
//   - Alone, kWritten matches empty entries as well (fast path of 6.12): ask for
//     kPresent | kSwapped with it.
//   - A page swapped out is not kPresent but may well be kWritten.
//   - A protection marker left by MADV_DONTNEED on a file mapping counts as kSwapped without
//     kWritten, though there is no page.
//   - kFile is missing on DAX pages (6.12); the zero page has kPfnZero and not kFile.
enum PageCategory : uint64_t {
  kWpAllowed = 1 << 0,
  kWritten = 1 << 1,
  kFile = 1 << 2,
  kPresent = 1 << 3,
  kSwapped = 1 << 4,
  kPfnZero = 1 << 5,
  kHuge = 1 << 6,
  kSoftDirty = 1 << 7,
};

// struct page_region: neighbouring pages with the same returned categories.
struct PageRegion {
  uint64_t start = 0;
  uint64_t end = 0;
  uint64_t categories = 0;
};
static_assert(sizeof(PageRegion) == 24);

struct ScanFilter {
  uint64_t all_of = 0;    // categories that must be set
  uint64_t none_of = 0;   // categories that must not be set
  uint64_t any_of = 0;    // at least one of these; 0: no such condition
  uint64_t returned = 0;  // categories to report
  // Write-protects the pages found, in the same step as finding them: a store that races is
  // either reported now or found by the next scan.
  bool rearm = false;
  // A range whose write tracking is gone is an error, also without `rearm`.
  bool tracked = false;
};

struct ScanResult {
  size_t filled = 0;       // regions stored
  uint64_t walked_to = 0;  // scanning goes on here; the end of the range when done
};

// Entry bits of the plain array.
inline constexpr uint64_t kEntrySoftDirty = 1ULL << 55;
// In no other page table, and known to the kernel as a page: neither the zero page is, nor a page
// of a DAX medium that the kernel does not show as kEntryFile (6.12).
inline constexpr uint64_t kEntryExclusive = 1ULL << 56;
inline constexpr uint64_t kEntryFile = 1ULL << 61;
inline constexpr uint64_t kEntrySwapped = 1ULL << 62;
inline constexpr uint64_t kEntryPresent = 1ULL << 63;

class Pagemap {
 public:
  // Errors: kNotFound (no /proc), kPermission, kNoMemory.
  static pcow::Result<Pagemap> open();

  Pagemap(Pagemap&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Pagemap& operator=(Pagemap&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  Pagemap(const Pagemap&) = delete;
  Pagemap& operator=(const Pagemap&) = delete;
  ~Pagemap();

  // Scans [start, end) until the end or until `out` is full. A range whose write tracking is gone
  // is an error when the filter re-arms, never silence. Errors: kUnsupported (no PAGEMAP_SCAN),
  // kPermission (re-arm without tracking), kNoMemory.
  pcow::Result<ScanResult> scan(uint64_t start, uint64_t end, const ScanFilter& filter,
                                std::span<PageRegion> out) const;

  // Reads the entries of the pages from `start` on. Errors: kIo, kNoMemory.
  pcow::Result<void> read_entries(uint64_t start, std::span<uint64_t> out) const;

 private:
  explicit Pagemap(int fd) : fd_(fd) {}

  int fd_ = -1;
};

}  // namespace tiering::kernel
