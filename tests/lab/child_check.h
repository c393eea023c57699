// SPDX-License-Identifier: BSD-3-Clause
//
// Runs a check in a child process. A check that walks into a kernel trap may never return, not even
// from a single load; the child is then killed, and the test goes on with a message.
#pragma once

#include <functional>
#include <stdexcept>
#include <string>

namespace lab {

// The check has found what it looks for.
class CheckFailed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Says what the check does next and how long that may take at most. Before the first call a check
// has kStepSeconds.
using NextStep = std::function<void(const std::string& what, int seconds)>;
using Check = std::function<void(const NextStep&)>;

inline constexpr int kStepSeconds = 60;

// Empty if the check returned; "failed: …" if it threw CheckFailed; "did not return: …" if it was
// killed in a step that took too long; "error: …" for what should not happen, like any other
// exception. REQUIRES: the process has one thread.
std::string run_in_child(const Check& check);

}  // namespace lab
