// SPDX-License-Identifier: BSD-3-Clause
//
// The accesses of an epoch, added up page by page, behind a modelled cache.
#pragma once

#include <cstdint>
#include <vector>

#include "tools/tiersim/cache.h"
#include "tools/tiersim/trace.h"

namespace tiersim {

struct PageUse {
  uint64_t page = 0;
  uint64_t reads = 0;
  uint64_t writes = 0;
  // When the first of them came, percent of the epoch that had passed; kNever: none.
  static constexpr uint64_t kNever = 100;
  uint64_t first_read = kNever;
  uint64_t first_write = kNever;
  uint64_t stored_lines = 0;  // bit l set: line l was stored to
  uint64_t written_back = 0;  // lines that left the cache dirty in this epoch
};

// In the order of the last access of each page; pages with write-backs only come first.
using EpochUse = std::vector<PageUse>;

class UseCounter {
 public:
  UseCounter(uint64_t pages, uint64_t cache_bytes);

  // Valid until the next call.
  const EpochUse& count(const std::vector<Access>& accesses);

 private:
  struct Tally {
    PageUse use;
    uint64_t last = 0;  // number of the last access, from 1
    bool listed = false;
  };

  Tally& tally(uint64_t page);
  void pass_cache(const Access& access);

  Cache cache_;
  std::vector<Tally> tallies_;
  std::vector<uint64_t> used_;  // pages with something in their tally
  EpochUse result_;
};

}  // namespace tiersim
