// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "tests/support/tracker_decorator.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/region_impl.h"

namespace tiering::testing {

// The tracker that this kernel has, saying that it may report pages that are clean.
class UnsureTracker final : public ::test::TrackerDecorator {
 public:
  using TrackerDecorator::TrackerDecorator;
  bool may_report_clean() const override { return true; }
};

inline std::unique_ptr<DirtyTracker> unsure_tracker(const pcow::Image& image) {
  return std::make_unique<UnsureTracker>(
      must(DirtyTracker::create(TrackerKind::kAuto, backing_of(image))));
}

}  // namespace tiering::testing
