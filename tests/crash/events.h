// SPDX-License-Identifier: BSD-3-Clause
//
// What the events of a trace mean to the engine, for broken variants to find their place by.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "pcow/format/layout.h"
#include "tests/crash/trace.h"

namespace crash {

using Events = std::vector<Event>;

inline bool is_fence(const Event& event) {
  return event.kind == EventKind::kDrain || event.kind == EventKind::kSync;
}
inline bool stores_in(const Event& event, uint64_t from, uint64_t end) {
  return event.kind == EventKind::kStore && event.offset >= from && event.offset < end;
}
inline bool to_superblock(const Event& event) {
  return stores_in(event, 0, pcow::format::kRootOffset);
}
inline bool to_metadata(const Event& event) {
  return stores_in(event, pcow::format::kRootOffset, pcow::format::kLogOffset);
}
inline bool to_log(const Event& event) {
  return stores_in(event, pcow::format::kLogOffset, pcow::kSegmentSize);
}
inline bool to_data(const Event& event) { return stores_in(event, pcow::kSegmentSize, UINT64_MAX); }
inline bool punches_data(const Event& event) {
  return event.kind == EventKind::kPunch && event.offset >= pcow::kSegmentSize;
}

// Drops the fences for which `drop` says so, of the events since the last fence and of those that
// come behind this one. Fences in a row are one.
using FencePredicate = std::function<bool(const Events& since, const Event* next)>;
inline void drop_fences(Events& events, const FencePredicate& drop) {
  Events kept;
  Events since;
  for (size_t i = 0; i < events.size();) {
    if (!is_fence(events[i])) {
      since.push_back(events[i]);
      kept.push_back(std::move(events[i++]));
      continue;
    }
    size_t end = i;
    while (end < events.size() && is_fence(events[end])) ++end;
    const bool dropped = drop(since, end < events.size() ? &events[end] : nullptr);
    since.clear();
    for (; i < end; ++i) {
      if (!dropped) kept.push_back(std::move(events[i]));
    }
  }
  events = std::move(kept);
}

}  // namespace crash
