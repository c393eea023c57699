// SPDX-License-Identifier: BSD-3-Clause
#include "tests/torture/broken.h"

#include <stdexcept>
#include <utility>

#include "tests/support/tracker_decorator.h"
#include "tiering/drop_check.h"

namespace torture {

Break active_break = Break::kNone;
std::atomic<bool> in_barrier{false};

const std::vector<BreakName>& break_names() {
  static const std::vector<BreakName> kNames = {
      {Break::kNoPin, "no-pin", "DMA without pins"},
      {Break::kNoResidue, "no-residue", "the barrier does not copy what is still dirty"},
      {Break::kDropWithoutRecheck, "drop-without-recheck",
       "what was stored to after the plan is dropped as well"},
      {Break::kDropLogged, "drop-logged", "what is only in the log is dropped as well"},
      {Break::kRunningBarrier, "running-barrier", "nobody waits at the barrier"},
      {Break::kEarlyAck, "early-ack", "acknowledged before the commit record is durable"},
      {Break::kDiscardLocally, "discard-locally",
       "what is discarded is dropped from DRAM, and the image keeps it"},
  };
  return kNames;
}

namespace {

using tiering::AddressRange;
using tiering::DirtyTracker;

class NoResidueTracker final : public test::TrackerDecorator {
 public:
  using TrackerDecorator::TrackerDecorator;

  pcow::Result<void> collect(AddressRange range, const DirtySink& sink) override {
    if (in_barrier) return {};
    return TrackerDecorator::collect(range, sink);
  }
};

}  // namespace

std::unique_ptr<DirtyTracker> make_tracker(tiering::Backing backing) {
  auto tracker = DirtyTracker::create(tiering::TrackerKind::kAuto, backing);
  if (!tracker) throw std::runtime_error(tracker.error().message);
  if (active_break != Break::kNoResidue) return *std::move(tracker);
  return std::make_unique<NoResidueTracker>(*std::move(tracker));
}

}  // namespace torture

// Instead of tiering/drop_check.cc.
bool tiering::was_stored_to(const PageSet& stored_since_plan, pcow::PageIndex page) {
  if (torture::active_break == torture::Break::kDropWithoutRecheck) return false;
  return stored_since_plan.contains(page);
}
