// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/simulation.h"

#include <algorithm>
#include <bit>

#include "tools/tiersim/policy_run.h"

namespace tiersim {
namespace {

tiering::Budget budget_of(const SimulationOptions& options, uint64_t pages) {
  tiering::Budget budget;
  budget.limit_pages =
      options.dram_pages != 0 ? options.dram_pages : std::max<uint64_t>(1, pages / 4);
  budget.high_pages = budget.limit_pages * options.high_percent / 100;
  budget.low_pages = budget.limit_pages * options.low_percent / 100;
  budget.move_pages =
      options.move_pages != 0 ? options.move_pages : std::max<uint64_t>(2, budget.limit_pages / 4);
  return budget;
}

uint64_t cache_bytes_of(const SimulationOptions& options, uint64_t pages) {
  constexpr uint64_t kShare = 256;
  return options.cache_bytes != 0 ? options.cache_bytes : pages * pcow::kPageSize / kShare;
}

std::vector<std::unique_ptr<Contestant>> contestants(const SimulationOptions& options,
                                                     const tiering::Budget& budget,
                                                     uint64_t pages) {
  std::vector<std::unique_ptr<Contestant>> result;
  for (const tiering::PolicyKind kind : options.policies) {
    const bool breaks = options.broken != nullptr && options.broken->kind == kind;
    result.push_back(make_policy_run({.kind = kind,
                                      .budget = budget,
                                      .pages = pages,
                                      .watched_percent = options.watched_percent,
                                      .window_percent = options.window_percent,
                                      .seed = options.seed,
                                      .broken = breaks ? options.broken : nullptr}));
  }
  result.push_back(make_lru(pages, budget));
  result.push_back(make_optimum(pages, budget));
  return result;
}

void add_stores(const EpochUse& use, StoreTotals& totals) {
  for (const PageUse& page : use) {
    totals.stores += page.writes;
    totals.lines += page.written_back;
    if (page.writes == 0) continue;
    const auto changed = static_cast<uint64_t>(std::popcount(page.stored_lines));
    totals.log_lines += 1 + changed;
    totals.checkpoint_lines += changed;
  }
}

}  // namespace

Section simulate(const std::string& name, TraceSource& trace, const SimulationOptions& options) {
  Section section;
  section.trace = name;
  section.pages = trace.pages();
  section.epochs = trace.epochs();
  section.budget = budget_of(options, trace.pages());
  const uint64_t warm_up = trace.epochs() / 4;
  section.counted = trace.epochs() - warm_up;
  const auto runs = contestants(options, section.budget, trace.pages());
  UseCounter counter(trace.pages(), cache_bytes_of(options, trace.pages()));
  for (uint64_t epoch = 0; epoch < trace.epochs(); ++epoch) {
    if (epoch == warm_up) {
      for (const auto& run : runs) run->reset_score();
      section.stores = {};
    }
    const EpochUse& use = counter.count(trace.next());
    add_stores(use, section.stores);
    for (const auto& run : runs) run->run_epoch(use);
  }
  for (const auto& run : runs)
    section.rows.push_back({run->name(), run->score(), run->violation()});
  return section;
}

}  // namespace tiersim
