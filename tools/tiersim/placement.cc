// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/placement.h"

#include <algorithm>
#include <bit>

namespace tiersim {

using pcow::kPagesPerChunk;

Placement::Placement(uint64_t pages, uint64_t limit_pages)
    : limit_(limit_pages),
      chunks_(pcow::round_up(pages, kPagesPerChunk) / kPagesPerChunk),
      changed_lines_(pages),
      stored_in_image_(pages) {
  for (size_t i = 0; i < chunks_.size(); ++i) chunks_[i].chunk = pcow::ChunkIndex(i);
}

bool Placement::in_dram(uint64_t page) const {
  return chunks_[page / kPagesPerChunk].resident[page % kPagesPerChunk];
}

void Placement::enter(uint64_t page, Score& score) {
  chunk(page).resident.set(page % kPagesPerChunk);
  stored_in_image_[page] = false;
  ++resident_;
  score.resident_max = std::max(score.resident_max, resident_);
}

void Placement::store(const PageUse& use) {
  if (use.writes == 0) return;
  chunk(use.page).dirty.set(use.page % kPagesPerChunk);
  changed_lines_[use.page] |= use.stored_lines;
}

Placement::Served Placement::serve(const PageUse& use, Score& score) {
  const uint64_t accesses = use.reads + use.writes;
  score.accesses += accesses;
  if (in_dram(use.page)) {
    score.hits += accesses;
    store(use);
    return Served::kDram;
  }
  if (use.writes > 0 && resident_ < limit_) {
    enter(use.page, score);
    store(use);
    // The store that faults, and the reads before it, as many as come before the first of evenly
    // spread stores.
    score.hits += accesses - 1 - use.reads / (use.writes + 1);
    ++score.faults;
    return Served::kFaulted;
  }
  if (use.writes > 0) stored_in_image_[use.page] = true;
  if (stored_in_image_[use.page]) score.pm_lines += use.written_back;
  score.throttled += use.writes;
  return use.writes > 0 ? Served::kThrottled : Served::kImage;
}

void Placement::promote(uint64_t page, Score& score) {
  enter(page, score);
  ++score.promotions;
}

void Placement::demote(uint64_t page, Score& score) {
  tiering::ChunkResidency& from = chunk(page);
  from.resident.reset(page % kPagesPerChunk);
  from.dirty.reset(page % kPagesPerChunk);
  --resident_;
  ++score.demotions;
  score.pm_lines += static_cast<uint64_t>(std::popcount(changed_lines_[page]));
  changed_lines_[page] = 0;
}

}  // namespace tiersim
