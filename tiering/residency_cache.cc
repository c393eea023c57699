// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/residency_cache.h"

#include <algorithm>
#include <iterator>

namespace tiering {

using pcow::ChunkIndex;

void ResidencyCache::invalidate(ChunkRun run) {
  const auto first = stale_.begin() + static_cast<std::ptrdiff_t>(run.first.value);
  std::fill_n(first, run.count, true);
}

pcow::Result<std::span<const ChunkResidency>> ResidencyCache::refresh(const Look& look) {
  const uint64_t chunks = stale_.size();
  for (uint64_t left = (chunks + kTurns - 1) / kTurns; left > 0; --left) {
    stale_[turn_] = true;
    turn_ = (turn_ + 1) % chunks;
  }
  std::vector<ChunkResidency> now;
  now.reserve(known_.size());
  auto known = known_.begin();
  // Those before `end` that are known still; the others were asked for.
  const auto keep = [&](uint64_t end) {
    for (; known != known_.end() && known->chunk.value < end; ++known) {
      if (!stale_[known->chunk.value]) now.push_back(*known);
    }
  };
  for (auto at = stale_.begin();;) {
    const auto first = std::find(at, stale_.end(), true);
    if (first == stale_.end()) break;
    at = std::find(first, stale_.end(), false);
    const ChunkRun run{ChunkIndex(static_cast<uint64_t>(first - stale_.begin())),
                       static_cast<uint64_t>(at - first)};
    keep(run.end().value);
    PCOW_TRY(look(run, now));
  }
  keep(chunks);
  known_.swap(now);
  stale_.assign(chunks, false);
  return std::span<const ChunkResidency>(known_);
}

}  // namespace tiering
