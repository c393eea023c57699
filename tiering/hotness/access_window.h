// SPDX-License-Identifier: BSD-3-Clause
//
// For how much of each epoch accesses are observed.
//
// An epoch shows one bit of a page: accessed or not. Where nearly every page in DRAM is accessed in
// every epoch the bits say nothing: the hottest page and one that should leave look the same. Where
// few are, pages take long to show their worth. In between, a shorter look tells more than a longer
// one. So the window follows the share of the pages in DRAM that were seen accessed: above
// kSeenHigh it shrinks, below kSeenLow it grows.
#pragma once

#include <cstdint>

#include "tiering/policy/snapshot.h"

namespace tiering {

class AccessWindow {
 public:
  static constexpr uint64_t kSeenHigh = 92;  // percent
  static constexpr uint64_t kSeenLow = 75;

  // Of the next epoch: from its begin, from 1 to 100.
  uint32_t percent() const { return percent_; }

  // After an epoch that was observed for percent(). Without pages in DRAM nothing changes.
  void adapt(Snapshot snapshot);

 private:
  uint32_t percent_ = 100;
};

}  // namespace tiering
