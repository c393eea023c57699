// SPDX-License-Identifier: BSD-3-Clause
//
// Dirty pages by PAGEMAP_SCAN over a userfaultfd in asynchronous write-protect mode. Getting and
// arming are one step per page, so that a store that races with collect() is found by the next one.
//
// A scan that has to know what a page is looks at the kernel's record of it: 25 ns a page, where
// the entry of the page table alone takes 1 ns (2.5 ns with a test for empty ones). And a scan that
// arms makes KVM forget its mappings of all the range that it is given, armed or not. So a collect
// goes over everything with the cheapest question, whether it is armed; then over what is not, for
// what is empty; and arms the rest in ranges as small as that is.
//
// So that the first question leaves little, all that is mapped is armed, pages of the page cache
// and the zero page too, though private copies alone are reported. But on a DAX medium to arm one
// of its pages does harm: it is unmapped whenever somebody stores to the image (ext4 does it to
// what a hole is punched in, xfs to the whole file), the mark stays, and the next access faults for
// ever. Nor is there a category for these pages (kFile, 6.12). There the entries of the page table
// say which pages are private copies (page_entry.h), and only those are armed. In between
//   - a private copy stays one: only this process drops any, and not at the same time,
//   - a candidate that was stored to and became one is dirty still, for the next collect().
#include <algorithm>
#include <array>
#include <utility>

#include "tiering/address_space.h"
#include "tiering/dirty_tracker.h"
#include "tiering/kernel/pagemap.h"
#include "tiering/kernel/userfaultfd_wp.h"
#include "tiering/page_entry.h"

namespace tiering {
namespace {

using kernel::PageRegion;
using kernel::ScanFilter;

// Private copies, and pages of DAX media: clean file pages have kFile, the zero page kPfnZero.
// kPresent | kSwapped keeps out empty entries, which would match kWritten alone.
constexpr uint64_t kNotACopy = kernel::kFile | kernel::kPfnZero;
constexpr uint64_t kThere = kernel::kPresent | kernel::kSwapped;
constexpr size_t kRegionsPerScan = 512;
constexpr size_t kEntriesPerRead = 512;
// Ranges so close to each other are one: what lies between takes less than a call.
constexpr size_t kGapWithoutArming = 64 * pcow::kPageSize;
constexpr size_t kGapWhenArming = 16 * pcow::kPageSize;

// The only question that the kernel answers from the entry alone. Empty entries match as well.
constexpr ScanFilter kNotArmed{.all_of = kernel::kWritten,
                               .none_of = 0,
                               .any_of = 0,
                               .returned = kernel::kWritten,
                               .rearm = false,
                               .tracked = true};
constexpr ScanFilter kWrittenAndThere{.all_of = kernel::kWritten,
                                      .none_of = 0,
                                      .any_of = kThere,
                                      .returned = kernel::kWritten,
                                      .rearm = false};
constexpr ScanFilter kDirtyCopies{.all_of = kernel::kWritten,
                                  .none_of = kNotACopy,
                                  .any_of = kThere,
                                  .returned = kernel::kWritten,
                                  .rearm = false};

constexpr ScanFilter arming(ScanFilter filter, uint64_t returned) {
  filter.returned |= returned;
  filter.rearm = true;
  return filter;
}

class PagemapTracker final : public DirtyTracker {
 public:
  PagemapTracker(kernel::Pagemap pagemap, kernel::UserfaultfdWp uffd, Backing backing)
      : pagemap_(std::move(pagemap)), uffd_(std::move(uffd)), backing_(backing) {}

  TrackerKind kind() const override { return TrackerKind::kPagemapScan; }
  bool may_report_clean() const override { return false; }
  bool collects_while_written() const override { return true; }

  pcow::Result<void> attach(AddressRange range) override {
    return uffd_.register_range(range.start, range.length);
  }

  pcow::Result<void> collect(AddressRange range, const DirtySink& sink) override {
    const auto take = [&](AddressRange part) {
      constexpr ScanFilter kArm = arming(kWrittenAndThere, kNotACopy);
      return scan(part, kArm, [&](AddressRange run, uint64_t categories) -> pcow::Result<void> {
        if ((categories & kNotACopy) == 0) sink(run);
        return {};
      });
    };
    return in_written(range, kGapWhenArming, [&](AddressRange part) {
      return backing_ == Backing::kDax ? in_copies(part, take) : take(part);
    });
  }

  pcow::Result<void> rearm() override { return {}; }

  pcow::Result<void> find_dirty(AddressRange range, const DirtySink& sink) const override {
    const auto report = [&](AddressRange run) -> pcow::Result<void> {
      sink(run);
      return {};
    };
    return in_written(range, kGapWithoutArming, [&](AddressRange part) {
      return scan(part, kDirtyCopies, [&](AddressRange run, uint64_t) {
        return backing_ == Backing::kDax ? in_copies(run, report) : report(run);
      });
    });
  }

  pcow::Result<void> inspect(AddressRange range, const StateSink& sink) const override {
    const ScanFilter filter{.all_of = 0,
                            .none_of = kNotACopy,
                            .any_of = kThere,
                            .returned = kernel::kWritten | kernel::kPresent | kernel::kHuge,
                            .rearm = false};
    return scan(range, filter, [&](AddressRange run, uint64_t categories) -> pcow::Result<void> {
      const PageState state{.dirty = (categories & kernel::kWritten) != 0,
                            .resident = (categories & kernel::kPresent) != 0,
                            .huge = (categories & kernel::kHuge) != 0};
      // Neither: swapped out while armed, or a protection marker without a page.
      if (!state.dirty && !state.resident) return {};
      const auto report = [&](AddressRange copies) -> pcow::Result<void> {
        sink(copies, state);
        return {};
      };
      return backing_ == Backing::kDax ? in_copies(run, report) : report(run);
    });
  }

  pcow::Result<void> disarm(AddressRange range) override {
    if (backing_ != Backing::kDax) return {};
    return uffd_.unprotect(range.start, range.length);
  }

  bool adopts_pages() const override { return uffd_.moves(); }

  // All that is there was moved here, so it need not be told from pages of a DAX medium.
  pcow::Result<void> adopt(AddressRange range, std::byte* from) override {
    PCOW_TRY(uffd_.move_pages(range.start, from, range.length));
    return scan(range, arming(kWrittenAndThere, 0),
                [](AddressRange, uint64_t) { return pcow::Result<void>(); });
  }

 private:
  // Calls fn, which returns a Result, for ranges that hold all pages that are there and not armed,
  // and, up to `gap` at a time, what lies between them.
  template <typename Fn>
  pcow::Result<void> in_written(AddressRange range, size_t gap, const Fn& fn) const {
    return scan_joined(range, kNotArmed, kGapWithoutArming, [&](AddressRange part) {
      return scan_joined(part, kWrittenAndThere, gap, fn);
    });
  }

  // Calls fn for what a scan finds, joined where the gap is no more than that.
  template <typename Fn>
  pcow::Result<void> scan_joined(AddressRange range, const ScanFilter& filter, size_t gap,
                                 const Fn& fn) const {
    AddressRange joined{range.start, 0};
    const auto add = [&](AddressRange run, uint64_t) -> pcow::Result<void> {
      std::byte* const end = run.start + run.length;
      if (joined.length == 0) {
        joined = run;
      } else if (run.start <= joined.start + joined.length + gap) {
        joined.length = static_cast<size_t>(end - joined.start);
      } else {
        const AddressRange done = std::exchange(joined, run);
        return fn(done);
      }
      return {};
    };
    PCOW_TRY(scan(range, filter, add));
    if (joined.length == 0) return {};
    return fn(joined);
  }

  // Calls fn, which returns a Result, for the private copies of a range of DAX pages.
  template <typename Fn>
  pcow::Result<void> in_copies(AddressRange range, const Fn& fn) const {
    std::array<uint64_t, kEntriesPerRead> entries;
    for (size_t done = 0; done < range.length;) {
      std::byte* start = range.start + done;
      const size_t pages = std::min((range.length - done) / pcow::kPageSize, entries.size());
      const auto part = std::span(entries).first(pages);
      PCOW_TRY(pagemap_.read_entries(AddressRange{start, 0}.first_address(), part));
      PCOW_TRY(for_each_private_run(part, [&](size_t first, size_t count) {
        return fn(AddressRange{start + first * pcow::kPageSize, count * pcow::kPageSize});
      }));
      done += pages * pcow::kPageSize;
    }
    return {};
  }

  template <typename Fn>
  pcow::Result<void> scan(AddressRange range, const ScanFilter& filter, const Fn& fn) const {
    std::array<PageRegion, kRegionsPerScan> regions;
    const uint64_t start = range.first_address();
    for (uint64_t at = start; at < start + range.length;) {
      PCOW_TRY_ASSIGN(const kernel::ScanResult result,
                      pagemap_.scan(at, start + range.length, filter, regions));
      for (size_t i = 0; i < result.filled; ++i) {
        const PageRegion& found = regions.at(i);
        PCOW_TRY(fn(AddressRange{range.start + (found.start - start), found.end - found.start},
                    found.categories));
      }
      at = result.walked_to;
    }
    return {};
  }

  kernel::Pagemap pagemap_;
  kernel::UserfaultfdWp uffd_;
  Backing backing_;
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

pcow::Result<std::unique_ptr<DirtyTracker>> make_pagemap_tracker(Backing backing) {
  PCOW_TRY_ASSIGN(kernel::UserfaultfdWp uffd, kernel::UserfaultfdWp::open());
  PCOW_TRY_ASSIGN(kernel::Pagemap pagemap, kernel::Pagemap::open());
  auto tracker = std::make_unique<PagemapTracker>(std::move(pagemap), std::move(uffd), backing);
  PCOW_TRY(probe(*tracker));
  return tracker;
}

}  // namespace tiering
