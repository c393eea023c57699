// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/hotness/access_window.h"

#include <algorithm>

namespace tiering {

void AccessWindow::adapt(Snapshot snapshot) {
  uint64_t resident = 0;
  uint64_t seen = 0;
  for (const ChunkView& chunk : snapshot) {
    const auto pages = chunk.in_dram.resident.count();
    resident += pages;
    if (pages == 0 || chunk.words == nullptr || chunk.least_idle > 0) continue;
    for (uint64_t i = 0; i < pcow::kPagesPerChunk; ++i) {
      if (chunk.in_dram.resident[i] && chunk.record(i).hit()) ++seen;
    }
  }
  if (seen * 100 > resident * kSeenHigh) {
    percent_ = std::max<uint32_t>(1, percent_ * 7 / 8);
  } else if (seen * 100 < resident * kSeenLow) {
    percent_ = std::min<uint32_t>(100, percent_ * 17 / 16 + 1);
  }
}

}  // namespace tiering
