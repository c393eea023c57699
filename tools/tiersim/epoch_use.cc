// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/epoch_use.h"

#include <pcow/units.h>
#include <algorithm>
#include <bit>

namespace tiersim {

using pcow::kLinesPerPage;

UseCounter::UseCounter(uint64_t pages, uint64_t cache_bytes)
    : cache_(cache_bytes), tallies_(pages) {}

UseCounter::Tally& UseCounter::tally(uint64_t page) {
  Tally& tally = tallies_[page];
  if (!tally.listed) {
    used_.push_back(page);
    tally.use.page = page;
    tally.listed = true;
  }
  return tally;
}

void UseCounter::pass_cache(const Access& access) {
  for (uint64_t lines = access.lines; lines != 0; lines &= lines - 1) {
    const uint64_t line =
        access.page * kLinesPerPage + static_cast<uint64_t>(std::countr_zero(lines));
    uint64_t written_back = 0;
    if (cache_.access(line, access.write, written_back)) {
      ++tally(written_back / kLinesPerPage).use.written_back;
    }
  }
}

const EpochUse& UseCounter::count(const std::vector<Access>& accesses) {
  used_.clear();
  uint64_t now = 0;
  for (const Access& access : accesses) {
    Tally& page = tally(access.page);
    (access.write ? page.use.writes : page.use.reads) += access.count;
    if (access.write) page.use.stored_lines |= access.lines;
    uint64_t& first = access.write ? page.use.first_write : page.use.first_read;
    first = std::min(first, now * 100 / accesses.size());
    page.last = ++now;
    pass_cache(access);
  }
  std::ranges::sort(used_, [&](uint64_t a, uint64_t b) {
    return tallies_[a].last != tallies_[b].last ? tallies_[a].last < tallies_[b].last : a < b;
  });
  result_.clear();
  for (const uint64_t page : used_) {
    result_.push_back(tallies_[page].use);
    tallies_[page] = {};
  }
  return result_;
}

}  // namespace tiersim
