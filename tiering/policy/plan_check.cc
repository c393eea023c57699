// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/policy/plan_check.h"

#include <algorithm>

namespace tiering {
namespace {

using pcow::PageIndex;

std::string text(uint64_t number) { return std::to_string(number); }

struct Moves {
  uint64_t pages = 0;
  uint64_t cooling = 0;
  std::string fault;
};

class PlanChecker {
 public:
  PlanChecker(const Budget& budget, Snapshot snapshot, const Plan& plan,
              const std::function<bool(PageIndex)>& cooling)
      : budget_(budget), snapshot_(snapshot), plan_(plan), cooling_(cooling) {}

  std::string check() const {
    const Moves up = walk(plan_.promotions, false);
    if (!up.fault.empty()) return up.fault;
    const Moves down = walk(plan_.demotions, true);
    if (!down.fault.empty()) return down.fault;
    if (up.pages != plan_.promoted || down.pages != plan_.demoted) {
      return "the plan counts " + text(plan_.promoted) + " promotions and " + text(plan_.demoted) +
             " demotions, but lists " + text(up.pages) + " and " + text(down.pages);
    }
    return check_counts(up, down);
  }

 private:
  const ChunkView* chunk_of(PageIndex page) const {
    const auto at =
        std::ranges::lower_bound(snapshot_, pcow::chunk_of(page), {},
                                 [](const ChunkView& chunk) { return chunk.in_dram.chunk; });
    const bool found = at != snapshot_.end() && at->in_dram.chunk == pcow::chunk_of(page);
    return found ? &*at : nullptr;
  }

  std::string fault_of(PageIndex page, bool demotion) const {
    const ChunkView* chunk = chunk_of(page);
    if (chunk == nullptr) return "P4: moves page " + text(page.value) + ", unknown";
    const uint64_t index = pcow::page_in_chunk(page);
    if (chunk->in_dram.resident[index] != demotion) {
      return "P4: moves page " + text(page.value) + " to where it is";
    }
    if (demotion && chunk->in_dram.pinned[index]) {
      return "P4: demotes page " + text(page.value) + ", pinned";
    }
    if (!demotion && chunk->record(index).idle() != 0) {
      return "P5: promotes page " + text(page.value) + ", idle";
    }
    if (!demotion && cooling_(page)) {
      return "P3: promotes page " + text(page.value) + " in its cool-down";
    }
    return {};
  }

  Moves walk(const std::vector<PageRun>& runs, bool demotion) const {
    Moves moves;
    PageIndex next(0);
    for (const PageRun& run : runs) {
      if (run.count == 0 || run.first < next) {
        moves.fault = "P4: page " + text(run.first.value) + " is out of order or moves twice";
        return moves;
      }
      next = run.first + run.count;
      for (PageIndex page = run.first; page < next; ++page) {
        moves.fault = fault_of(page, demotion);
        if (!moves.fault.empty()) return moves;
        ++moves.pages;
        if (demotion && cooling_(page)) ++moves.cooling;
      }
    }
    return moves;
  }

  std::string check_counts(const Moves& up, const Moves& down) const {
    uint64_t resident = 0;
    uint64_t pinned = 0;
    for (const ChunkView& chunk : snapshot_) {
      resident += chunk.in_dram.resident.count();
      pinned += (chunk.in_dram.resident & chunk.in_dram.pinned).count();
    }
    const uint64_t after = resident + up.pages - down.pages;
    const uint64_t over = resident - std::min(resident, budget_.limit_pages);
    if (after > std::max(budget_.limit_pages, pinned)) {
      return "P1: " + text(after) + " pages in DRAM, limit " + text(budget_.limit_pages);
    }
    if (up.pages + down.pages > budget_.move_pages + over) {
      return "P2: " + text(up.pages + down.pages) + " moves, budget " + text(budget_.move_pages) +
             ", over the limit " + text(over);
    }
    if (down.cooling > over) {
      return "P3: " + text(down.cooling) + " demotions in a cool-down, over the limit " +
             text(over);
    }
    return {};
  }

  const Budget& budget_;
  const Snapshot snapshot_;
  const Plan& plan_;
  const std::function<bool(PageIndex)>& cooling_;
};

}  // namespace

std::string check_plan(PolicyKind kind, const Budget& budget, Snapshot snapshot, const Plan& plan,
                       const std::function<bool(PageIndex)>& cooling) {
  const bool still = kind == PolicyKind::kOff || kind == PolicyKind::kStatic;
  if (still) {
    const bool moves = !plan.promotions.empty() || !plan.demotions.empty();
    return moves ? std::string("policy ") + policy_name(kind) + " moves pages" : "";
  }
  return PlanChecker(budget, snapshot, plan, cooling).check();
}

}  // namespace tiering
