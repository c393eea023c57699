// SPDX-License-Identifier: BSD-3-Clause
//
// Deliberately broken policies. Each must be found by the checks, or they prove nothing.
#pragma once

#include <span>

#include "tiering/policy/policy.h"

namespace tiersim {

struct Break {
  const char* name;
  const char* what;
  tiering::PolicyKind kind;  // the policy it breaks
  // Makes the plan a wrong one; may be absent.
  void (*change_plan)(tiering::Plan& plan, const tiering::Budget& budget,
                      tiering::Snapshot snapshot) = nullptr;
  bool forgets_moves = false;  // no page ever gets a cool-down
};

std::span<const Break> breaks();

}  // namespace tiersim
