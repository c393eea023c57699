// SPDX-License-Identifier: BSD-3-Clause
//
// Trackers that lack one care each; in all else they are the product's PagemapTracker.
#pragma once

#include <memory>

#include "tiering/dirty_tracker.h"

namespace lab {

// Takes everything for dirty that PAGEMAP_SCAN calls written, also where there is no page.
std::unique_ptr<tiering::DirtyTracker> tracker_that_believes_written_alone();

// Leaves the marks of copies that are dropped.
std::unique_ptr<tiering::DirtyTracker> tracker_that_leaves_stale_marks();

// Takes a scan's word for what is a private copy, as one may where there is no DAX.
std::unique_ptr<tiering::DirtyTracker> tracker_that_believes_dax_pages_are_copies();

}  // namespace lab
