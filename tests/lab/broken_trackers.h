// SPDX-License-Identifier: BSD-3-Clause
//
// Trackers that lack one care each; in all else they are the product's PagemapTracker.
#pragma once

#include <memory>

#include "tiering/dirty_tracker.h"

namespace lab {

// Takes everything for dirty that PAGEMAP_SCAN calls written, also where there is no page.
std::unique_ptr<tiering::DirtyTracker> tracker_that_believes_written_alone();

// Leaves the marks where the kernel has unmapped pages.
std::unique_ptr<tiering::DirtyTracker> tracker_that_leaves_stale_marks();

}  // namespace lab
