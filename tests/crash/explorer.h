// SPDX-License-Identifier: BSD-3-Clause
//
// Takes a recording, cuts it at every point where a crash can make a difference, and verifies the
// states that the crash can leave: those of the recovery as well, and of the recovery from a crash
// of the recovery.
//
// The points are the fences and the ends of steps. What may have landed just before a fence
// includes everything that may have landed at any earlier point since the last one, and what is
// allowed changes with steps only.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_set>

#include "tests/crash/breaks.h"
#include "tests/crash/choices.h"
#include "tests/crash/verify.h"
#include "tests/crash/workloads.h"

namespace crash {

struct ExploreOptions {
  ChoiceLimits limits;
  ChoiceLimits recovery_limits;
  uint64_t recovery_one_in = 32;  // of the distinct states, for how many recovery is explored
  uint64_t states_max = 0;        // 0: no limit
  uint64_t violations_max = 5;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  const Break* broken = nullptr;
  std::string again = {};  // the command that repeats this, to print with a violation
};

struct Totals {
  uint64_t operations = 0;  // recorded: stores, fences, changes of the file
  uint64_t points = 0;
  uint64_t exhaustive = 0;  // points of which every state was enumerated
  uint64_t states = 0;      // enumerated
  uint64_t distinct = 0;    // of those, byte by byte
  uint64_t checked = 0;     // pairs of a distinct state and an expectation, opened and compared
  uint64_t recoveries = 0;  // of which the crashes were explored
  uint64_t twice = 0;       // of those, of states that a crash of a recovery left
  uint64_t violations = 0;
};

class Explorer {
 public:
  Explorer(MediumKind kind, const ExploreOptions& options, uint64_t seed, Totals& totals)
      : kind_(kind),
        options_(options),
        random_(seed),
        totals_(&totals),
        states_before_(totals.states) {}

  // `name` says in messages what was run.
  void explore(const Recording& recording, const std::string& name);
  bool finished() const;

  // A state that was verified, for a workload to go on from. Empties it.
  struct Survivor {
    SparseBytes state;
    Found found;
  };
  std::optional<Survivor> take_survivor() { return std::move(survivor_); }

 private:
  struct Walk {
    const Trace* trace;
    const std::vector<Step>* steps;  // or, of a recovery:
    const Expectation* expected = nullptr;
    std::optional<uint64_t> same_as = {};  // digest of what the recovery found the first time
    int depth = 0;
    std::string name = {};
  };

  void walk(const Walk& walk);
  void point(const Walk& walk, WriteBack& write_back, size_t event, const Expectation& expected,
             const std::string& where);
  void examine(const Walk& walk, WriteBack& write_back, const Choice& choice,
               const Expectation& expected, const std::string& where);
  void report(const std::string& where, const std::string& choice, const std::string& wrong);

  MediumKind kind_;
  ExploreOptions options_;
  Random random_;
  Totals* totals_;
  uint64_t states_before_;
  std::unordered_set<uint64_t> seen_;     // digests of states
  std::unordered_set<uint64_t> checked_;  // of states with what was expected of them
  std::optional<Survivor> survivor_;
  uint64_t survivors_ = 0;
};

}  // namespace crash
