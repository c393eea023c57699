// SPDX-License-Identifier: BSD-3-Clause
//
// Multi-queue (Zhou et al. 2001, as used by RAMinate for hybrid memory): 8 queues, a page belongs
// to queue log2(accesses), falls by one queue whenever it was not accessed for a lifetime, and
// returns to its queue with the next access. Within a queue the least recently used page comes
// first. Since the fall is a function of the time since the last access, the queue follows from the
// record. A page is replaced by one of a higher queue, or of the same and more recent.
#include <algorithm>
#include <bit>

#include "tiering/policy/ranking.h"

namespace tiering {
namespace {

constexpr uint32_t kLifetimeEpochs = 5;
constexpr uint32_t kRecencies = PageRecord::kRunMax + 1;

// 0 for a page without accesses, 1 to 7 for 1 to kVisitsMax of them.
uint32_t queue_of(PageRecord record) {
  const auto level = static_cast<uint32_t>(std::bit_width(record.visits()));
  return level - std::min(level, record.idle() / kLifetimeEpochs);
}

uint32_t score(PageRecord record) {
  return queue_of(record) * kRecencies + (PageRecord::kRunMax - record.idle());
}

bool admits(PageRecord record) { return record.visits() > 0; }

bool beats(uint32_t candidate, uint32_t resident) { return candidate > resident; }

}  // namespace

const Ranking kCmqRanking = {.score = score, .admits = admits, .beats = beats};

}  // namespace tiering
