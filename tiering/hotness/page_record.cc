// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/hotness/page_record.h"

#include <algorithm>
#include <cmath>

namespace tiering {
namespace {

using Fields = PageRecord::Fields;

// One access is no run: a scan accesses every page once. One miss of a page that is accessed in
// every epoch is.
constexpr uint32_t kHitsMin = 2;

// How far an epoch moves the heat towards what it showed.
uint32_t step(uint32_t distance, uint32_t visits) {
  const uint32_t parts = std::min(visits, Aging::kVisitsWeighed) + 2;
  return (distance + parts - 1) / parts;
}

// The estimate from a run of hits alone (Laplace's rule of succession).
uint32_t heat_of_run(uint32_t run) { return PageRecord::kHeatMax * (run + 1) / (run + 2); }

}  // namespace

Aging::Aging() {
  for (uint32_t heat = 0; heat <= PageRecord::kHeatMax; ++heat) {
    const double bits = -std::log2((heat + 0.5) / (PageRecord::kHeatMax + 1));
    const double run = std::ceil(Aging::kSurpriseBits / bits);
    surprising_run_.at(heat) =
        static_cast<uint32_t>(std::min(run, double{PageRecord::kRunMax} + 1));
  }
}

Fields Aging::hit(PageRecord record) const {
  Fields next;
  next.hit = true;
  next.run = record.hit() ? std::min(record.run() + 1, PageRecord::kRunMax) : 1;
  next.last_read = (record.word() & PageRecord::kWritten) == 0;
  if (next.run >= std::max(kHitsMin, surprising_run_[record.heat()])) {
    next.heat = std::max(record.heat(), heat_of_run(next.run));
    next.visits = next.run;
  } else {
    next.heat = record.heat() + step(PageRecord::kHeatMax - record.heat(), record.visits());
    next.visits = std::min(record.visits() + 1, PageRecord::kVisitsMax);
  }
  return next;
}

Fields Aging::missed(PageRecord record) const {
  Fields next;
  next.run = record.hit() ? 1 : std::min(record.run() + 1, PageRecord::kRunMax);
  next.last_read = record.last_read();
  if (next.run >= surprising_run_[PageRecord::kHeatMax - record.heat()]) {
    next.heat = std::min(record.heat(), PageRecord::kHeatMax - heat_of_run(next.run));
    next.visits = std::min(record.visits(), next.run);
  } else {
    next.heat = record.heat() - step(record.heat(), record.visits());
    next.visits = record.visits();
  }
  if (next.run == PageRecord::kRunMax) next.visits = 0;
  return next;
}

PageRecord Aging::aged(PageRecord record, Reads reads) const {
  if (!record.known()) return record;
  const uint32_t cool_down = record.cool_down() == 0 ? 0 : record.cool_down() - 1;
  if (!record.accessed() && record.last_read() && reads != Reads::kWatched) {
    uint32_t heat = record.heat();
    if (reads == Reads::kDoubted) heat -= step(heat, record.visits());
    if (heat == 0 && cool_down == 0) return PageRecord();
    return record.with_heat(heat).with_cool_down(cool_down);
  }
  Fields next = record.accessed() ? hit(record) : missed(record);
  next.cool_down = cool_down;
  const bool forgotten = next.heat == 0 && next.visits == 0 && next.cool_down == 0;
  return forgotten ? PageRecord() : PageRecord(next);
}

}  // namespace tiering
