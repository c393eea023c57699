// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/dirty_tracker.h"

#include <string>

namespace tiering {

std::string_view tracker_name(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::kPagemapScan:
      return "pagemap-scan";
    case TrackerKind::kSoftDirty:
      return "soft-dirty";
    case TrackerKind::kAuto:
      break;
  }
  return "auto";
}

pcow::Result<void> DirtyTracker::find_dirty(AddressRange range, const DirtySink& sink) const {
  return inspect(range, [&](AddressRange run, PageState state) {
    if (state.dirty) sink(run);
  });
}

pcow::Result<std::unique_ptr<DirtyTracker>> DirtyTracker::create(TrackerKind kind,
                                                                 Backing backing) {
  if (kind == TrackerKind::kPagemapScan) return make_pagemap_tracker(backing);
  if (kind == TrackerKind::kSoftDirty) return make_soft_dirty_tracker();
  auto best = make_pagemap_tracker(backing);
  if (best) return best;
  auto fallback = make_soft_dirty_tracker();
  if (fallback) return fallback;
  // The first reason is the one worth fixing.
  return pcow::Error{best.error().code, best.error().sys_errno,
                     "no way to find written pages on this host: pagemap-scan: " +
                         best.error().message + "; soft-dirty: " + fallback.error().message};
}

}  // namespace tiering
