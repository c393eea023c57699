// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/policy_run.h"

#include "tiering/hotness/access_window.h"
#include "tiering/hotness/heat_tracker.h"
#include "tiering/policy/plan_check.h"
#include "tools/tiersim/placement.h"
#include "tools/tiersim/random.h"

namespace tiersim {
namespace {

using pcow::ChunkIndex;
using pcow::kPagesPerChunk;
using pcow::PageIndex;

class PolicyRun : public Contestant {
 public:
  explicit PolicyRun(const PolicyRunOptions& options)
      : options_(options),
        placement_(options.pages, options.budget.limit_pages),
        tracker_(placement_.chunks().size(), tiering::on_onetbb),
        moved_(options.pages) {}

  const char* name() const override { return tiering::policy_name(options_.kind); }

  void run_epoch(const EpochUse& use) override {
    ++epoch_;
    watch();
    for (const PageUse& page : use) serve(page);
    tracker_.end_of_epoch();
    const tiering::Plan plan = decide();
    for (const tiering::PageRun& run : plan.demotions) demote(run);
    for (const tiering::PageRun& run : plan.promotions) promote(run);
    if (placement_.resident() > options_.budget.limit_pages) {
      complain("P1: " + std::to_string(placement_.resident()) + " pages in DRAM");
    }
  }

 private:
  bool watched(uint64_t chunk) const {
    return mix(mix(options_.seed + epoch_) + chunk) % 100 < options_.watched_percent;
  }

  void watch() {
    for (uint64_t chunk = 0; chunk < tracker_.chunks(); ++chunk) {
      if (watched(chunk)) tracker_.watch_reads(ChunkIndex(chunk));
    }
  }

  bool seen(uint64_t first) const {
    const uint64_t window =
        options_.window_percent != 0 ? options_.window_percent : window_.percent();
    return first < window;
  }

  // Moved by a plan so recently that it must stay.
  bool cooling(uint64_t page) const {
    return moved_[page] != 0 && epoch_ - moved_[page] < tiering::kCoolDownEpochs;
  }

  void serve(const PageUse& use) {
    const Placement::Served served = placement_.serve(use, score_);
    if (seen(use.first_write)) tracker_.note_written(PageIndex(use.page), 1);
    if (seen(use.first_read) && watched(use.page / kPagesPerChunk)) {
      tracker_.note_read(PageIndex(use.page), 1);
    }
    if (served == Placement::Served::kFaulted && cooling(use.page)) ++score_.ping_pongs;
  }

  tiering::Plan decide() {
    const auto frozen = tracker_.freeze();
    const std::vector<tiering::ChunkView> snapshot = frozen.snapshot(placement_.chunks());
    window_.adapt(snapshot);
    tiering::Plan plan = tiering::make_plan(options_.kind, options_.budget, snapshot);
    const Break* broken = options_.broken;
    if (broken != nullptr && broken->change_plan != nullptr) {
      broken->change_plan(plan, options_.budget, snapshot);
    }
    const std::string wrong =
        tiering::check_plan(options_.kind, options_.budget, snapshot, plan,
                            [&](PageIndex page) { return cooling(page.value); });
    if (wrong.empty()) return plan;
    complain(wrong);
    return {};
  }

  void complain(const std::string& wrong) {
    if (violation_.empty()) violation_ = "epoch " + std::to_string(epoch_ - 1) + ": " + wrong;
  }

  void note_moved(tiering::PageRun run) {
    for (PageIndex page = run.first; page < run.first + run.count; ++page) {
      moved_[page.value] = epoch_;
    }
    const bool forgets = options_.broken != nullptr && options_.broken->forgets_moves;
    if (!forgets) tracker_.note_moved(run.first, run.count, tiering::kCoolDownEpochs);
  }

  void demote(tiering::PageRun run) {
    for (uint64_t i = 0; i < run.count; ++i) placement_.demote(run.first.value + i, score_);
    note_moved(run);
  }

  void promote(tiering::PageRun run) {
    for (uint64_t i = 0; i < run.count; ++i) placement_.promote(run.first.value + i, score_);
    note_moved(run);
  }

  const PolicyRunOptions options_;
  Placement placement_;
  tiering::AccessWindow window_;
  tiering::HeatTracker tracker_;
  std::vector<uint64_t> moved_;  // epoch of the last planned move, 0: none
  uint64_t epoch_ = 0;           // from 1
};

}  // namespace

std::unique_ptr<Contestant> make_policy_run(const PolicyRunOptions& options) {
  return std::make_unique<PolicyRun>(options);
}

}  // namespace tiersim
