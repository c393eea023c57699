// SPDX-License-Identifier: BSD-3-Clause
//
// What a policy decided: which pages to move, and why the others stay.
#pragma once

#include <tiering/residency.h>
#include <array>
#include <cstdint>
#include <vector>

namespace tiering {

// DRAM and the moves of one epoch, in pages. REQUIRES: low <= high <= limit.
struct Budget {
  uint64_t limit_pages = 0;  // hard: comes before the move budget and before cool-downs
  uint64_t high_pages = 0;   // above it, pages are demoted …
  uint64_t low_pages = 0;    // … down to this; promotions fill up to it
  uint64_t move_pages = 0;   // promotions and demotions together
};

// What becomes of a page, and why.
enum class Verdict : uint8_t {
  kBelongs,       // it is where the policy wants it
  kPolicyStill,   // the policy moves nothing
  kPromoted,      // moves to DRAM
  kDemoted,       // leaves DRAM
  kForced,        // leaves DRAM in spite of its cool-down: the hard limit demands it
  kCoolDown,      // would move, but has just been moved
  kPinned,        // would leave DRAM, but may not now
  kRate,          // would move, but the moves of the epoch are used up
  kNoColderPage,  // would move to DRAM, but no page there is colder by enough
};
inline constexpr size_t kVerdicts = 9;

// Stable lower-case name: "no-colder-page".
const char* verdict_name(Verdict verdict);
// Whether the page was refused a move.
constexpr bool is_refusal(Verdict verdict) { return verdict >= Verdict::kCoolDown; }

// Pages in an order of preference, best first: those whose key is below a cut are taken.
struct Cuts {
  uint64_t promoted = 0;                            // among candidates
  uint64_t demoted = 0;                             // among pages in DRAM that are free to go
  uint64_t wanted = 0;                              // the same, if nothing held them back
  uint64_t forced = 0;                              // among pages in DRAM that are cooling down
  Verdict promotion_stop = Verdict::kNoColderPage;  // why the other candidates stay
};

struct Plan {
  // Ascending, neighbours merged.
  std::vector<PageRun> promotions;
  std::vector<PageRun> demotions;
  uint64_t promoted = 0;    // pages
  uint64_t demoted = 0;     // pages
  uint64_t over_limit = 0;  // of the demotions, those that the hard limit demands
  // Pages that were refused a move, by verdict; 0 for a verdict that is no refusal.
  std::array<uint64_t, kVerdicts> refused{};
  Cuts cuts;
};

}  // namespace tiering
