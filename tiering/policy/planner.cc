// SPDX-License-Identifier: BSD-3-Clause
//
// Two passes over the snapshot. The first finds the best candidates for DRAM and the pages in DRAM
// that are worth least, no more of either than can be used. Between the passes the cuts are
// chosen: how far down each of the two orders goes. The second pass judges every page by the cuts;
// explain() judges one page with the same function, so what it says is what happened.
//
// Both orders are keys: the score first, then (in DRAM) pages whose demotion writes nothing, then
// the page number. Keys are unique, so the plan is determined.
#include "tiering/policy/planner.h"

#include <algorithm>
#include <limits>

#include "tiering/policy/best_keys.h"

namespace tiering {
namespace {

constexpr int kPageBits = 40;  // 4 PiB of guest memory

uint64_t page_number(const ChunkView& chunk, uint64_t index) {
  return pcow::first_page(chunk.in_dram.chunk).value + index;
}

uint64_t candidate_key(const Ranking& ranking, const ChunkView& chunk, uint64_t index) {
  const uint64_t score = ranking.score(chunk.record(index));
  return (Ranking::kScoreMax - score) << kPageBits | page_number(chunk, index);
}

uint64_t victim_key(const Ranking& ranking, const ChunkView& chunk, uint64_t index) {
  const uint64_t score = ranking.score(chunk.record(index));
  const uint64_t dirty = chunk.in_dram.dirty[index] ? 1 : 0;
  return (score << 1 | dirty) << kPageBits | page_number(chunk, index);
}

uint32_t candidate_score(uint64_t key) {
  return Ranking::kScoreMax - static_cast<uint32_t>(key >> kPageBits);
}

uint32_t victim_score(uint64_t key) { return static_cast<uint32_t>(key >> (kPageBits + 1)); }

bool is_candidate(const Ranking& ranking, PageRecord record) {
  return record.known() && record.idle() == 0 && ranking.admits(record);
}

// Calls fn(chunk, page in chunk) for the pages in DRAM.
template <typename Fn>
void for_each_resident(Snapshot snapshot, const Fn& fn) {
  for (const ChunkView& chunk : snapshot) {
    if (chunk.in_dram.resident.none()) continue;
    for (uint64_t i = 0; i < pcow::kPagesPerChunk; ++i) {
      if (chunk.in_dram.resident[i]) fn(chunk, i);
    }
  }
}

// Calls fn(chunk, page in chunk) for the pages that would move to DRAM.
template <typename Fn>
void for_each_candidate(const Ranking& ranking, Snapshot snapshot, const Fn& fn) {
  for (const ChunkView& chunk : snapshot) {
    if (chunk.words == nullptr || chunk.least_idle > 0) continue;
    for (uint64_t i = 0; i < pcow::kPagesPerChunk; ++i) {
      if (!chunk.in_dram.resident[i] && is_candidate(ranking, chunk.record(i))) fn(chunk, i);
    }
  }
}

struct Need {
  uint64_t resident = 0;
  uint64_t over_limit = 0;  // pages that must leave whatever it takes
  uint64_t demotions = 0;   // pages that should leave, these included
};

Need need_of(const Budget& budget, Snapshot snapshot) {
  Need need;
  for (const ChunkView& chunk : snapshot) need.resident += chunk.in_dram.resident.count();
  if (need.resident > budget.limit_pages) need.over_limit = need.resident - budget.limit_pages;
  if (need.resident > budget.high_pages) need.demotions = need.resident - budget.low_pages;
  return need;
}

// Keys, best first.
struct Orders {
  std::vector<uint64_t> candidates;
  std::vector<uint64_t> victims;  // free to go
  std::vector<uint64_t> cooling;  // in DRAM and in their cool-down
};

Orders order_pages(const Ranking& ranking, const Budget& budget, const Need& need,
                   Snapshot snapshot) {
  BestKeys candidates(budget.move_pages);
  for_each_candidate(ranking, snapshot, [&](const ChunkView& chunk, uint64_t i) {
    if (chunk.record(i).cool_down() == 0) candidates.offer(candidate_key(ranking, chunk, i));
  });
  Orders orders{.candidates = std::move(candidates).take(), .victims = {}, .cooling = {}};
  if (orders.candidates.empty() && need.demotions == 0) return orders;
  BestKeys victims(need.demotions + budget.move_pages / 2);
  BestKeys cooling(need.over_limit);
  for_each_resident(snapshot, [&](const ChunkView& chunk, uint64_t i) {
    if (chunk.in_dram.pinned[i]) return;
    BestKeys& keys = chunk.record(i).cool_down() == 0 ? victims : cooling;
    keys.offer(victim_key(ranking, chunk, i));
  });
  orders.victims = std::move(victims).take();
  orders.cooling = std::move(cooling).take();
  return orders;
}

// The key after the first `count` of an order.
uint64_t cut_after(const std::vector<uint64_t>& keys, uint64_t count) {
  return count == 0 ? 0 : keys[static_cast<size_t>(count - 1)] + 1;
}

class Chooser {
 public:
  Chooser(const Ranking& ranking, const Budget& budget, const Need& need, const Orders& orders)
      : ranking_(ranking), budget_(budget), need_(need), orders_(orders) {}

  Cuts choose() {
    make_room();
    promote();
    Cuts cuts;
    cuts.promoted = cut_after(orders_.candidates, promoted_);
    cuts.demoted = cut_after(orders_.victims, demoted_);
    cuts.wanted = std::max(cuts.demoted, wanted_cut());
    cuts.forced = cut_after(orders_.cooling, forced_);
    cuts.promotion_stop = stop_;
    return cuts;
  }

 private:
  // Where there are too few pages that are free to go, all others are in the way.
  uint64_t wanted_cut() const {
    if (need_.demotions > orders_.victims.size()) return std::numeric_limits<uint64_t>::max();
    return cut_after(orders_.victims, need_.demotions);
  }

  // Demotions for the hard limit, then for the watermarks.
  void make_room() {
    const uint64_t free_to_go = orders_.victims.size();
    demoted_ = std::min({need_.demotions, need_.over_limit + budget_.move_pages, free_to_go});
    if (demoted_ < need_.over_limit) {
      forced_ = std::min<uint64_t>(need_.over_limit - demoted_, orders_.cooling.size());
    }
    moves_left_ = budget_.move_pages - (demoted_ - std::min(demoted_, need_.over_limit));
    const uint64_t resident = need_.resident - demoted_ - forced_;
    room_ = budget_.low_pages - std::min(budget_.low_pages, resident);
  }

  // Into free room, then in exchange for colder pages.
  void promote() {
    for (; promoted_ < orders_.candidates.size(); ++promoted_) {
      const bool exchange = room_ == 0;
      if (exchange && !beats_next_victim(orders_.candidates[promoted_])) {
        stop_ = Verdict::kNoColderPage;
        return;
      }
      if (moves_left_ < (exchange ? 2U : 1U)) break;
      moves_left_ -= exchange ? 2 : 1;
      if (exchange) {
        ++demoted_;
      } else {
        --room_;
      }
    }
    stop_ = Verdict::kRate;  // the order has no more candidates than the rate allows
  }

  bool beats_next_victim(uint64_t candidate) const {
    if (demoted_ >= orders_.victims.size()) return false;
    return ranking_.beats(candidate_score(candidate), victim_score(orders_.victims[demoted_]));
  }

  const Ranking& ranking_;
  const Budget& budget_;
  const Need& need_;
  const Orders& orders_;
  uint64_t moves_left_ = 0;
  uint64_t room_ = 0;
  size_t promoted_ = 0;
  size_t demoted_ = 0;
  uint64_t forced_ = 0;
  Verdict stop_ = Verdict::kRate;
};

Verdict judge_resident(const Ranking& ranking, const Cuts& cuts, const ChunkView& chunk,
                       uint64_t index) {
  const uint64_t key = victim_key(ranking, chunk, index);
  if (chunk.in_dram.pinned[index]) return key < cuts.wanted ? Verdict::kPinned : Verdict::kBelongs;
  if (chunk.record(index).cool_down() != 0) {
    if (key < cuts.forced) return Verdict::kForced;
    return key < cuts.wanted ? Verdict::kCoolDown : Verdict::kBelongs;
  }
  if (key < cuts.demoted) return Verdict::kDemoted;
  return key < cuts.wanted ? Verdict::kRate : Verdict::kBelongs;
}

}  // namespace

Verdict judge(const Ranking& ranking, const Cuts& cuts, const ChunkView& chunk, uint64_t index) {
  if (chunk.in_dram.resident[index]) return judge_resident(ranking, cuts, chunk, index);
  if (!is_candidate(ranking, chunk.record(index))) return Verdict::kBelongs;
  if (chunk.record(index).cool_down() != 0) return Verdict::kCoolDown;
  if (candidate_key(ranking, chunk, index) < cuts.promoted) return Verdict::kPromoted;
  return cuts.promotion_stop;
}

Plan plan_by_rank(const Ranking& ranking, const Budget& budget, Snapshot snapshot) {
  const Need need = need_of(budget, snapshot);
  const Orders orders = order_pages(ranking, budget, need, snapshot);
  Plan plan;
  plan.cuts = Chooser(ranking, budget, need, orders).choose();
  const auto settle = [&](const ChunkView& chunk, uint64_t i) {
    const Verdict verdict = judge(ranking, plan.cuts, chunk, i);
    if (is_refusal(verdict)) ++plan.refused[static_cast<size_t>(verdict)];
    if (verdict == Verdict::kPromoted) {
      add_page(plan.promotions, pcow::PageIndex(page_number(chunk, i)));
      ++plan.promoted;
    } else if (verdict == Verdict::kDemoted || verdict == Verdict::kForced) {
      add_page(plan.demotions, pcow::PageIndex(page_number(chunk, i)));
      ++plan.demoted;
    }
  };
  for_each_candidate(ranking, snapshot, settle);
  if (plan.cuts.wanted != 0 || plan.cuts.forced != 0) for_each_resident(snapshot, settle);
  plan.over_limit = std::min(plan.demoted, need.over_limit);
  return plan;
}

}  // namespace tiering
