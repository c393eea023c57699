// SPDX-License-Identifier: BSD-3-Clause
//
// Least recently used, in epochs: the classic, and quick to follow a change; a scan sweeps it out.
#include "tiering/policy/ranking.h"

namespace tiering {
namespace {

// A page in DRAM is safe for so many epochs without an access.
constexpr uint32_t kIdleBeforeReplaced = 1;

uint32_t score(PageRecord record) { return PageRecord::kRunMax - record.idle(); }

bool admits(PageRecord /*record*/) { return true; }

bool beats(uint32_t candidate, uint32_t resident) {
  return candidate >= resident + kIdleBeforeReplaced;
}

}  // namespace

const Ranking kAgeRanking = {.score = score, .admits = admits, .beats = beats};

}  // namespace tiering
