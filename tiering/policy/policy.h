// SPDX-License-Identifier: BSD-3-Clause
//
// Tiering policies. A policy is a pure function: it sees a snapshot and a budget and returns a
// plan. It keeps nothing, reads no clock and does no I/O, so the very same code runs in the engine
// and in the trace simulator. Equal arguments give equal plans; ties go to the lower page.
//
//   off     moves nothing; the engine keeps to its limit by itself
//   static  moves nothing: what came to DRAM first stays there
//   age     least recently used: promotes what the last epoch accessed, demotes the longest idle
//   heat    the default: the estimated chance of an access in an epoch, with hysteresis
//   cmq     multi-queue, as published for hybrid memory (RAMinate, 2016), the baseline: queues by
//           the logarithm of the accesses, one queue down after each expiry
//
// What all that move pages have in common (planner.cc):
//   P1  After the plan at most limit_pages are in DRAM, unless pinned pages prevent it.
//   P2  At most move_pages are moved, and beside them those that P1 demands.
//   P3  A page in its cool-down does not move, unless P1 demands it and nothing else is left.
//   P4  Pinned pages are not demoted. No page is both promoted and demoted.
//   P5  Only pages that the last observed epoch accessed are promoted.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "tiering/policy/plan.h"
#include "tiering/policy/snapshot.h"

namespace tiering {

enum class PolicyKind { kOff, kStatic, kAge, kHeat, kCmq };

inline constexpr PolicyKind kAllPolicies[] = {
    PolicyKind::kOff, PolicyKind::kStatic, PolicyKind::kAge, PolicyKind::kHeat, PolicyKind::kCmq};

// How long a moved page stays where it is; for HeatTracker::note_moved().
inline constexpr uint32_t kCoolDownEpochs = 4;

const char* policy_name(PolicyKind kind);
std::optional<PolicyKind> policy_by_name(std::string_view name);

// Throws std::bad_alloc. Memory: 16 bytes for each page of the move budget and each page above the
// low watermark. REQUIRES: a valid budget.
Plan make_plan(PolicyKind kind, const Budget& budget, Snapshot snapshot);

// One page under a plan. `score` is the policy's own scale: what the page is worth in DRAM.
struct Explanation {
  bool in_dram = false;
  PageRecord record;
  uint32_t score = 0;
  Verdict verdict = Verdict::kBelongs;
};

// REQUIRES: `plan` is make_plan() of the same kind and snapshot.
Explanation explain(PolicyKind kind, const Plan& plan, Snapshot snapshot, pcow::PageIndex page);

}  // namespace tiering
