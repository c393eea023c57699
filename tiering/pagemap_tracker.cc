// SPDX-License-Identifier: BSD-3-Clause
//
// Dirty pages by PAGEMAP_SCAN over a userfaultfd in asynchronous write-protect mode. Getting and
// arming are one step per page, so that a store that races with collect() is found by the next one.
#include <array>

#include "tiering/address_space.h"
#include "tiering/dirty_tracker.h"
#include "tiering/kernel/pagemap.h"
#include "tiering/kernel/userfaultfd_wp.h"

namespace tiering {
namespace {

using kernel::PageRegion;
using kernel::ScanFilter;

// Private copies only: clean file pages have kFile, the zero page kPfnZero. kPresent | kSwapped
// keeps out empty entries, which would match kWritten alone.
constexpr uint64_t kNotACopy = kernel::kFile | kernel::kPfnZero;
constexpr uint64_t kThere = kernel::kPresent | kernel::kSwapped;
constexpr size_t kRegionsPerScan = 512;

class PagemapTracker final : public DirtyTracker {
 public:
  PagemapTracker(kernel::Pagemap pagemap, kernel::UserfaultfdWp uffd)
      : pagemap_(std::move(pagemap)), uffd_(std::move(uffd)) {}

  TrackerKind kind() const override { return TrackerKind::kPagemapScan; }
  bool may_report_clean() const override { return false; }
  bool collects_while_written() const override { return true; }

  pcow::Result<void> attach(AddressRange range) override {
    return uffd_.register_range(range.start, range.length);
  }

  pcow::Result<void> collect(AddressRange range, const DirtySink& sink) override {
    const ScanFilter filter{.all_of = kernel::kWritten,
                            .none_of = kNotACopy,
                            .any_of = kThere,
                            .returned = kernel::kWritten,
                            .rearm = true};
    return scan(range, filter, [&](AddressRange run, uint64_t) { sink(run); });
  }

  pcow::Result<void> rearm() override { return {}; }

  pcow::Result<void> inspect(AddressRange range, const StateSink& sink) const override {
    const ScanFilter filter{.all_of = 0,
                            .none_of = kNotACopy,
                            .any_of = kThere,
                            .returned = kernel::kWritten | kernel::kPresent,
                            .rearm = false};
    return scan(range, filter, [&](AddressRange run, uint64_t categories) {
      const PageState state{.dirty = (categories & kernel::kWritten) != 0,
                            .resident = (categories & kernel::kPresent) != 0};
      // Neither: swapped out while armed, or a protection marker without a page.
      if (state.dirty || state.resident) sink(run, state);
    });
  }

  pcow::Result<void> clear_stale_marks(AddressRange range) override {
    // A mark without a page counts as swapped out, and so does an armed page that really is: that
    // one becomes dirty, which costs a comparison.
    const ScanFilter filter{.all_of = kernel::kSwapped,
                            .none_of = kernel::kPresent | kernel::kWritten,
                            .any_of = 0,
                            .returned = kernel::kSwapped,
                            .rearm = false};
    pcow::Result<void> result;
    PCOW_TRY(scan(range, filter, [&](AddressRange run, uint64_t) {
      if (result) result = uffd_.unprotect(run.start, run.length);
    }));
    return result;
  }

 private:
  template <typename Fn>
  pcow::Result<void> scan(AddressRange range, const ScanFilter& filter, const Fn& fn) const {
    std::array<PageRegion, kRegionsPerScan> regions;
    const uint64_t start = range.first_address();
    for (uint64_t at = start; at < start + range.length;) {
      PCOW_TRY_ASSIGN(const kernel::ScanResult result,
                      pagemap_.scan(at, start + range.length, filter, regions));
      for (size_t i = 0; i < result.filled; ++i) {
        const PageRegion& found = regions.at(i);
        fn({range.start + (found.start - start), found.end - found.start}, found.categories);
      }
      at = result.walked_to;
    }
    return {};
  }

  kernel::Pagemap pagemap_;
  kernel::UserfaultfdWp uffd_;
};

// Writes a page, arms it, writes it again: all three must show. Catches kernels where one part is
// missing or a sandbox filters the calls.
pcow::Result<void> probe(DirtyTracker& tracker) {
  PCOW_TRY_ASSIGN(const AddressSpace page, AddressSpace::map(pcow::kPageSize, pcow::kPageSize));
  const AddressRange range{page.base(), page.size()};
  auto* word = reinterpret_cast<volatile int*>(page.base());
  const auto count = [&]() -> pcow::Result<int> {
    int found = 0;
    PCOW_TRY(tracker.collect(range, [&](AddressRange) { ++found; }));
    return found;
  };
  PCOW_TRY(tracker.attach(range));
  *word = 1;
  PCOW_TRY_ASSIGN(const int first, count());
  PCOW_TRY_ASSIGN(const int idle, count());
  *word = 2;
  PCOW_TRY_ASSIGN(const int second, count());
  if (first == 1 && idle == 0 && second == 1) return {};
  return pcow::make_error(pcow::Code::kUnsupported,
                          "the kernel's PAGEMAP_SCAN does not report written pages");
}

}  // namespace

pcow::Result<std::unique_ptr<DirtyTracker>> make_pagemap_tracker() {
  PCOW_TRY_ASSIGN(kernel::UserfaultfdWp uffd, kernel::UserfaultfdWp::open());
  PCOW_TRY_ASSIGN(kernel::Pagemap pagemap, kernel::Pagemap::open());
  auto tracker = std::make_unique<PagemapTracker>(std::move(pagemap), std::move(uffd));
  PCOW_TRY(probe(*tracker));
  return tracker;
}

}  // namespace tiering
