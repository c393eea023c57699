// SPDX-License-Identifier: BSD-3-Clause
//
// Where pages are, and why: what the region, the heat and the last plan say of them.
#include <algorithm>
#include <utility>

#include "tiering/memory_checked.h"
#include "tiering/migration.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::Code;
using pcow::PageIndex;
using pcow::Result;

namespace {

constexpr const char* kNoMemory = "out of memory to explain pages";

// Tells pages of a range apart, one after the other.
class Explainer {
 public:
  Explainer(std::span<const ChunkResidency> copies, const HeatTracker* tracker) : copies_(copies) {
    if (tracker != nullptr) frozen_.emplace(tracker->freeze());
  }

  // With no page but this one in its run.
  ExplainedRun explain_page(PlacedRun placed, const Migration::LastPlan* last) {
    const PageIndex page = placed.run.first;
    placed.run.count = 1;
    const ChunkIndex chunk = pcow::chunk_of(page);
    if (!view_ || view_->in_dram.chunk != chunk) look_at(chunk);
    const PageRecord record = view_->record(pcow::page_in_chunk(page));
    ExplainedRun run{.placed = placed};
    run.known = record.visits() > 0 || record.heat() > 0;
    run.heat = record.heat();
    run.idle = record.idle();
    run.written = run.known && !record.last_read();
    run.cool_down = record.cool_down();
    if (last == nullptr) return run;
    const Explanation why = explain(last->kind, last->plan, Snapshot(&*view_, 1), page);
    run.score = why.score;
    run.verdict = why.verdict;
    return run;
  }

 private:
  void look_at(ChunkIndex chunk) {
    view_.emplace();
    view_->in_dram.chunk = chunk;
    if (frozen_) view_->words = frozen_->words(chunk);
    const auto copy = std::ranges::lower_bound(copies_, chunk, {}, &ChunkResidency::chunk);
    if (copy == copies_.end() || copy->chunk != chunk) return;
    view_->in_dram = *copy;
    view_->in_dram.pinned |= copy->dirty;
  }

  std::span<const ChunkResidency> copies_;
  std::optional<HeatTracker::Frozen> frozen_;
  std::optional<ChunkView> view_;
};

bool alike(const ExplainedRun& one, ExplainedRun other) {
  if (one.placed.run.end() != other.placed.run.first) return false;
  other.placed.run = one.placed.run;
  return one == other;
}

}  // namespace

Result<std::vector<ExplainedRun>> Migration::explain(PageRun range) {
  if (range.count > kExplainedPagesMax) {
    return pcow::make_error(Code::kInvalid,
                            std::to_string(range.count) +
                                " pages are too many to explain at a time: ask for " +
                                std::to_string(kExplainedPagesMax) + " at most");
  }
  return memory_checked(kNoMemory, [&]() -> Result<std::vector<ExplainedRun>> {
    std::vector<PlacedRun> places;
    std::vector<ChunkResidency> copies;
    PCOW_TRY(region_.with([&](Region& region) -> Result<void> {
      PCOW_TRY_ASSIGN(places, region.places(range));
      PCOW_TRY_ASSIGN(copies, region.residency(range));
      return {};
    }));
    std::shared_ptr<HeatTracker> tracker;
    std::optional<LastPlan> last;
    {
      const pcow::MutexLock lock(mutex_);
      tracker = tracker_;
      last = last_plan_;
    }
    Explainer explainer(copies, tracker.get());
    std::vector<ExplainedRun> runs;
    for (const PlacedRun& placed : places) {
      for (PlacedRun page = placed; page.run.first < placed.run.end(); ++page.run.first) {
        const ExplainedRun next = explainer.explain_page(page, last ? &*last : nullptr);
        if (!runs.empty() && alike(runs.back(), next)) {
          ++runs.back().placed.run.count;
        } else {
          runs.push_back(next);
        }
      }
    }
    return runs;
  });
}

}  // namespace tiering
