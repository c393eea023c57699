// SPDX-License-Identifier: BSD-3-Clause
//
// One way to place pages, run over a trace and counted.
//
// The model, as the engine works: a page is in DRAM or in the image, at first in the image. The
// first store to a page of the image copies it to DRAM at once (a fault); loads are served where
// the page is. Everything else moves at the end of an epoch. DRAM never holds more than the limit:
// a store that finds it full is throttled, counted as a store to the image.
//
// Lines written to PM, of persistence=volatile: those of a demoted page that were stored to since
// it came to DRAM, and those of throttled stores when they leave the cache.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "tiering/policy/policy.h"
#include "tools/tiersim/epoch_use.h"

namespace tiersim {

struct Score {
  uint64_t accesses = 0;
  uint64_t hits = 0;          // accesses served from DRAM
  uint64_t promotions = 0;    // pages, planned
  uint64_t demotions = 0;     // pages
  uint64_t faults = 0;        // pages, promoted by a store
  uint64_t pm_lines = 0;      // written to PM
  uint64_t throttled = 0;     // stores that found DRAM full
  uint64_t ping_pongs = 0;    // faults on pages demoted within the cool-down
  uint64_t resident_max = 0;  // pages

  uint64_t migrations() const { return promotions + demotions + faults; }
  double hit_ratio() const {
    return accesses == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(accesses);
  }
};

class Contestant {
 public:
  virtual ~Contestant() = default;

  virtual const char* name() const = 0;
  // Serves the accesses of an epoch, then moves pages.
  virtual void run_epoch(const EpochUse& use) = 0;

  // Forgets the counts, not the placement: the end of the warm-up.
  void reset_score() { score_ = {}; }
  const Score& score() const { return score_; }
  // The first rule that was broken, with its epoch; empty if none was.
  const std::string& violation() const { return violation_; }

 protected:
  Score score_;
  std::string violation_;
};

// The best that any placement can do whose pages move at the ends of epochs only: every epoch has
// the pages in DRAM that this very epoch accesses most, as many as the limit allows; moving is
// free. Faults within an epoch do not beat it, since nothing leaves DRAM within an epoch: the pages
// in DRAM at its end are at most as many. Of equally accessed pages those stay that are there.
std::unique_ptr<Contestant> make_optimum(uint64_t pages, const tiering::Budget& budget);

// Least recently used, by the exact order of accesses, under the same budget as the policies. No
// page table tells that order, so it knows more than any policy of the engine can.
std::unique_ptr<Contestant> make_lru(uint64_t pages, const tiering::Budget& budget);

}  // namespace tiersim
