// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/read_watch.h"

#include <algorithm>

namespace tiering {

using pcow::ChunkIndex;

std::vector<ChunkIndex> ReadWatch::choose(uint64_t count, const Source& source) {
  std::vector<ChunkIndex> chosen;
  const uint64_t followed_max = count - count / 4;
  for (const auto& [chunk, looks] : followed_) {
    if (chosen.size() == followed_max) break;
    chosen.emplace_back(chunk);
  }
  const auto followed = static_cast<std::ptrdiff_t>(chosen.size());
  const auto add = [&](ChunkIndex from, ChunkIndex end) {
    for (const ChunkIndex chunk : source(from, count - chosen.size())) {
      if (chunk >= end) return;
      hand_ = chunk + 1;
      const bool again = std::binary_search(chosen.begin(), chosen.begin() + followed, chunk);
      if (!again) chosen.push_back(chunk);
    }
  };
  // Once round at most: from the hand to the end, then from the begin to where that was.
  const ChunkIndex start = hand_;
  add(start, ChunkIndex(~uint64_t{0}));
  if (chosen.size() < count && start.value > 0) {
    hand_ = ChunkIndex(0);
    add(hand_, start);
  }
  std::ranges::sort(chosen);
  return chosen;
}

void ReadWatch::saw(ChunkIndex chunk, uint64_t pages) {
  const auto at = followed_.find(chunk.value);
  const uint32_t looks = at == followed_.end() ? 1 : at->second + 1;
  if (pages > 0 && looks < kLooksMax) {
    followed_[chunk.value] = looks;
  } else if (at != followed_.end()) {
    followed_.erase(at);
  }
}

}  // namespace tiering
