// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>

#include "tools/tiersim/placement.h"

namespace tiersim {
namespace {

class Lru : public Contestant {
 public:
  Lru(uint64_t pages, const tiering::Budget& budget)
      : budget_(budget), last_(pages), placement_(pages, budget.limit_pages) {}

  const char* name() const override { return "lru"; }

  void run_epoch(const EpochUse& use) override {
    const uint64_t start = now_;
    for (const PageUse& page : use) {
      placement_.serve(page, score_);
      if (page.reads + page.writes > 0) last_[page.page] = ++now_;
    }
    move_pages(start);
  }

 private:
  struct Use {
    uint64_t last = 0;
    uint64_t page = 0;
    auto operator<=>(const Use&) const = default;
  };

  void move_pages(uint64_t epoch_start) {
    std::vector<Use> victims;     // oldest first
    std::vector<Use> candidates;  // newest first
    for (uint64_t page = 0; page < last_.size(); ++page) {
      if (placement_.in_dram(page)) {
        victims.push_back({last_[page], page});
      } else if (last_[page] > epoch_start) {
        candidates.push_back({last_[page], page});
      }
    }
    std::ranges::sort(victims);
    std::ranges::sort(candidates, std::greater<>());
    uint64_t moves = budget_.move_pages;
    size_t victim = 0;
    const auto demote_next = [&] {
      placement_.demote(victims[victim++].page, score_);
      --moves;
    };
    if (placement_.resident() > budget_.high_pages) {
      while (placement_.resident() > budget_.low_pages && moves > 0) demote_next();
    }
    for (const Use& candidate : candidates) {
      const bool exchange = placement_.resident() >= budget_.low_pages;
      if (moves < (exchange ? 2U : 1U)) break;
      if (exchange) {
        if (victim == victims.size() || victims[victim].last > candidate.last) break;
        demote_next();
      }
      placement_.promote(candidate.page, score_);
      --moves;
    }
  }

  tiering::Budget budget_;
  std::vector<uint64_t> last_;  // when each page was accessed last
  uint64_t now_ = 0;
  Placement placement_;
};

}  // namespace

std::unique_ptr<Contestant> make_lru(uint64_t pages, const tiering::Budget& budget) {
  return std::make_unique<Lru>(pages, budget);
}

}  // namespace tiersim
