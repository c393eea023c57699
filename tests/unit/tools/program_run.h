// SPDX-License-Identifier: BSD-3-Clause
//
// Runs main() of a program in a process of its own, in which a call to the kernel fails.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/support/syscall_faults.h"

namespace test {

using Main = int (*)(int, char**);

struct ProgramRun {
  Main main = nullptr;
  std::vector<std::string> words;  // the name of the program first
  std::string directory;           // to run in
  std::string input = "/dev/null";
};

struct Fault {
  Call call;
  int sys_errno;  // or kCrash
};
std::string fault_text(const Fault& fault);

struct ProgramOutcome {
  bool ended = false;  // by exit(), and in time
  int exit_code = -1;
  bool hit = false;    // the nth call was made
  CallCounts calls{};  // of run_undisturbed()
  std::string out;
  std::string err;
};
std::string describe(const ProgramOutcome& outcome);

// Without a fault; counts the calls.
ProgramOutcome run_undisturbed(const ProgramRun& run);
// Lets the nth call (from 1) fail.
ProgramOutcome run_with_fault(const ProgramRun& run, const Fault& fault, uint64_t nth);
// No call does all that it is asked to (class Interruptions).
ProgramOutcome run_interrupted(const ProgramRun& run);
// The standard output is a full device.
ProgramOutcome run_on_full_output(const ProgramRun& run);

// Which of `count` calls are to fail, from 1 and ascending: all of them or, where these are many,
// the first and about `most` that lie apart, at random. $PCOW_FAULT_CALLS says how many instead of
// `most` (0: all), and fault_step() thins them out.
std::vector<uint64_t> calls_to_fail(uint64_t count, uint64_t most, std::mt19937_64& random);

}  // namespace test
