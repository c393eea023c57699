// SPDX-License-Identifier: BSD-3-Clause
#include "tests/lab/broken_trackers.h"

#include <array>
#include <utility>

#include "tests/support/tracker_decorator.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/kernel/pagemap.h"

namespace lab {
namespace {

using test::TrackerDecorator;
using tiering::AddressRange;
using tiering::Backing;
using tiering::DirtyTracker;
using tiering::testing::must;

class BelievesWrittenAlone final : public TrackerDecorator {
 public:
  using TrackerDecorator::TrackerDecorator;

  // The filter of PagemapTracker::collect() without kPresent | kSwapped. Arming is left to the real
  // tracker: arming an empty entry would leave a mark there, which is another trap.
  pcow::Result<void> collect(AddressRange range, const DirtySink& sink) override {
    using tiering::kernel::PageCategory;
    const tiering::kernel::ScanFilter filter{
        .all_of = PageCategory::kWritten,
        .none_of = PageCategory::kFile | PageCategory::kPfnZero,
        .any_of = 0,
        .returned = PageCategory::kWritten,
        .rearm = false};
    std::array<tiering::kernel::PageRegion, 512> found;
    const uint64_t start = range.first_address();
    for (uint64_t at = start; at < start + range.length;) {
      PCOW_TRY_ASSIGN(const auto result, pagemap_.scan(at, start + range.length, filter, found));
      for (size_t i = 0; i < result.filled; ++i) {
        const auto& run = found.at(i);
        sink({range.start + (run.start - start), run.end - run.start});
      }
      at = result.walked_to;
    }
    return TrackerDecorator::collect(range, [](AddressRange) {});
  }

 private:
  tiering::kernel::Pagemap pagemap_ = must(tiering::kernel::Pagemap::open());
};

class LeavesStaleMarks final : public TrackerDecorator {
 public:
  using TrackerDecorator::TrackerDecorator;

  pcow::Result<void> disarm(AddressRange) override { return {}; }
};

}  // namespace

std::unique_ptr<DirtyTracker> tracker_that_believes_written_alone() {
  return std::make_unique<BelievesWrittenAlone>(must(tiering::make_pagemap_tracker(Backing::kDax)));
}

std::unique_ptr<DirtyTracker> tracker_that_leaves_stale_marks() {
  return std::make_unique<LeavesStaleMarks>(must(tiering::make_pagemap_tracker(Backing::kDax)));
}

std::unique_ptr<DirtyTracker> tracker_that_believes_dax_pages_are_copies() {
  return must(tiering::make_pagemap_tracker(Backing::kPageCache));
}

}  // namespace lab
