// SPDX-License-Identifier: BSD-3-Clause
//
// Makes the nth call of the engine to the kernel fail. Linking this library replaces the calls
// named below in the whole test program; without a plan they pass through.
#pragma once

#include <cstdint>
#include <string>

namespace test {

enum class Call { kWrite, kFlush, kReserve, kPunch, kExtend, kRead };
inline constexpr Call kAllCalls[] = {Call::kWrite, Call::kFlush,  Call::kReserve,
                                     Call::kPunch, Call::kExtend, Call::kRead};
std::string call_name(Call call);

// While it lives, the nth (from 1) `call` on a regular file fails with `sys_errno`, and so do all
// later ones when `sticky`.
class FaultPlan {
 public:
  FaultPlan(Call call, uint64_t nth, int sys_errno, bool sticky = false);
  ~FaultPlan();
  FaultPlan(const FaultPlan&) = delete;
  FaultPlan& operator=(const FaultPlan&) = delete;

  bool hit() const;  // the nth call was made, and failed
};

// A loop that lets every call fail in turn goes on by so many calls: 1, or $PCOW_FAULT_STEP where
// machines are slow.
uint64_t fault_step();

}  // namespace test
