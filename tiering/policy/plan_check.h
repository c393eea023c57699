// SPDX-License-Identifier: BSD-3-Clause
//
// Holds a plan to the rules of policy.h, independently of how it was made.
#pragma once

#include <functional>
#include <string>

#include "tiering/policy/policy.h"

namespace tiering {

// The first rule that the plan violates, for a person: "P2: …"; empty if none.
// `cooling` says whether a page was moved so recently that it must stay: the caller's own book, not
// the records. REQUIRES: a valid budget.
std::string check_plan(PolicyKind kind, const Budget& budget, Snapshot snapshot, const Plan& plan,
                       const std::function<bool(pcow::PageIndex)>& cooling);

}  // namespace tiering
