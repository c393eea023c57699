// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/breaks.h"

#include <array>

namespace tiersim {
namespace {

using pcow::PageIndex;
using tiering::Budget;
using tiering::ChunkView;
using tiering::PageRun;
using tiering::Plan;
using tiering::PolicyKind;
using tiering::Snapshot;

// Up to `count` accessed pages of one side, as runs of one page.
std::vector<PageRun> pick(Snapshot snapshot, bool in_dram, uint64_t count) {
  std::vector<PageRun> runs;
  for (const ChunkView& chunk : snapshot) {
    for (uint64_t i = 0; i < pcow::kPagesPerChunk && runs.size() < count; ++i) {
      if (chunk.in_dram.resident[i] != in_dram) continue;
      const tiering::PageRecord record = chunk.record(i);
      if (!record.known() || record.idle() != 0 || record.cool_down() != 0) continue;
      runs.push_back({pcow::first_page(chunk.in_dram.chunk) + i, 1});
    }
  }
  return runs;
}

void replace_moves(Plan& plan, std::vector<PageRun> promotions, std::vector<PageRun> demotions) {
  plan.promotions = std::move(promotions);
  plan.demotions = std::move(demotions);
  plan.promoted = plan.promotions.size();
  plan.demoted = plan.demotions.size();
}

void overshoot(Plan& plan, const Budget& budget, Snapshot snapshot) {
  replace_moves(plan, pick(snapshot, false, budget.move_pages), {});
}

void ignore_rate(Plan& plan, const Budget& budget, Snapshot snapshot) {
  const uint64_t pages = budget.move_pages / 2 + 1;
  replace_moves(plan, pick(snapshot, false, pages), pick(snapshot, true, pages));
}

void move_twice(Plan& plan, const Budget& /*budget*/, Snapshot snapshot) {
  const std::vector<PageRun> run = pick(snapshot, true, 1);
  if (!run.empty()) replace_moves(plan, run, run);
}

void miscount(Plan& plan, const Budget& /*budget*/, Snapshot /*snapshot*/) { ++plan.demoted; }

// What heat would do without hysteresis and cool-down: exchange whatever was accessed.
void exchange_all(Plan& plan, const Budget& budget, Snapshot snapshot) {
  const uint64_t pages = budget.move_pages / 2;
  std::vector<PageRun> up = pick(snapshot, false, pages);
  std::vector<PageRun> down = pick(snapshot, true, up.size());
  up.resize(down.size());
  replace_moves(plan, std::move(up), std::move(down));
}

constexpr std::array kBreaks = {
    Break{"no-hysteresis", "exchanges pages that are equally hot, and forgets that it did",
          PolicyKind::kHeat, exchange_all, true},
    Break{"overshoot", "promotes without room", PolicyKind::kHeat, overshoot},
    Break{"no-rate", "moves more than the epoch's budget", PolicyKind::kHeat, ignore_rate},
    Break{"both-ways", "promotes and demotes the same page", PolicyKind::kHeat, move_twice},
    Break{"miscount", "reports a demotion that is not in the plan", PolicyKind::kHeat, miscount},
    Break{"restless-static", "moves a page that it should leave", PolicyKind::kStatic, ignore_rate},
};

}  // namespace

std::span<const Break> breaks() { return kBreaks; }

}  // namespace tiersim
