// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>

#include "tools/tiersim/placement.h"

namespace tiersim {
namespace {

struct Use {
  uint64_t count = 0;
  bool in_dram = false;
  uint64_t page = 0;
};

bool better(const Use& a, const Use& b) {
  if (a.count != b.count) return a.count > b.count;
  if (a.in_dram != b.in_dram) return a.in_dram;
  return a.page < b.page;
}

class Optimum : public Contestant {
 public:
  Optimum(uint64_t pages, const tiering::Budget& budget)
      : limit_(budget.limit_pages), counts_(pages), placement_(pages, budget.limit_pages) {}

  const char* name() const override { return "optimum"; }

  void run_epoch(const EpochUse& use) override {
    place(best_pages(use));
    for (const PageUse& page : use) {
      counts_[page.page] = 0;
      placement_.serve(page, score_);
    }
  }

 private:
  // The pages to have in DRAM, best first. Pages there that the epoch does not access stay as long
  // as there is room.
  std::vector<Use> best_pages(const EpochUse& use) {
    for (const PageUse& page : use) counts_[page.page] = page.reads + page.writes;
    std::vector<Use> uses;
    for (uint64_t page = 0; page < counts_.size(); ++page) {
      const bool in_dram = placement_.in_dram(page);
      if (counts_[page] > 0 || in_dram) uses.push_back({counts_[page], in_dram, page});
    }
    std::ranges::sort(uses, better);
    return uses;
  }

  void place(const std::vector<Use>& uses) {
    for (size_t i = limit_; i < uses.size(); ++i) {
      if (uses[i].in_dram) placement_.demote(uses[i].page, score_);
    }
    for (size_t i = 0; i < std::min<size_t>(limit_, uses.size()); ++i) {
      if (!uses[i].in_dram) placement_.promote(uses[i].page, score_);
    }
  }

  uint64_t limit_;
  std::vector<uint64_t> counts_;
  Placement placement_;
};

}  // namespace

std::unique_ptr<Contestant> make_optimum(uint64_t pages, const tiering::Budget& budget) {
  return std::make_unique<Optimum>(pages, budget);
}

}  // namespace tiersim
