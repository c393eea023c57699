// SPDX-License-Identifier: BSD-3-Clause
//
// The default: pages are worth what their heat says, the chance of an access in an epoch.
//
// Among pages that are accessed in nearly every epoch the misses tell them apart: 99 % means
// several times the accesses of 90 %. So pages are compared by their odds, accessed to not
// accessed, on a logarithmic scale, and a page yields only to one with kMargin better odds.
//
// A page is promoted only after more than one access, so a scan passes by. A page known for its
// writes has a bonus, because it costs a write to the image when it leaves, and comes back by
// itself with the next store.
#include <array>
#include <cmath>

#include "tiering/policy/ranking.h"

namespace tiering {
namespace {

constexpr uint32_t kOdds = PageRecord::kHeatMax + 1;
constexpr uint32_t kDoubled = 1024;  // what double odds add to a score
constexpr uint32_t kMargin = kDoubled;
constexpr uint32_t kWriteBonus = kDoubled;
constexpr uint32_t kVisitsAdmitted = 2;

// Score by heat: 0 for odds of 1 to 4096, 12 * kDoubled for even odds.
std::array<uint16_t, kOdds> odds_scores() {
  std::array<uint16_t, kOdds> scores{};
  for (uint32_t heat = 0; heat < kOdds; ++heat) {
    const double odds = (heat + 1.0) / (kOdds - heat);
    scores.at(heat) = static_cast<uint16_t>(std::lround((std::log2(odds) + 12) * kDoubled));
  }
  return scores;
}

uint32_t score(PageRecord record) {
  static const std::array<uint16_t, kOdds> kScores = odds_scores();
  return kScores.at(record.heat()) + (record.last_read() ? 0 : kWriteBonus);
}

bool admits(PageRecord record) { return record.visits() >= kVisitsAdmitted; }

bool beats(uint32_t candidate, uint32_t resident) { return candidate >= resident + kMargin; }

}  // namespace

const Ranking kHeatRanking = {.score = score, .admits = admits, .beats = beats};

}  // namespace tiering
