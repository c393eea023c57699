// SPDX-License-Identifier: BSD-3-Clause
//
// What a simulation found: a table or JSON, then the RESULT line.
#pragma once

#include <string>
#include <vector>

#include "tools/common/arguments.h"
#include "tools/tiersim/contestant.h"

namespace tiersim {

// What the stores of a trace write to PM under the two schemes that do not depend on a policy.
struct StoreTotals {
  uint64_t stores = 0;
  // Every store goes to PM: lines that leave the cache dirty.
  uint64_t lines = 0;
  // persistence=epoch: every store goes to DRAM, and every epoch to the log, a record for each page
  // stored to: a header of one line and the changed lines. A checkpoint stores them again, in their
  // windows. Every store is taken to change its line.
  uint64_t log_lines = 0;
  uint64_t checkpoint_lines = 0;
};

struct Row {
  std::string name;
  Score score;
  std::string violation;
};

// One trace; the optimum is the last row.
struct Section {
  std::string trace;
  uint64_t pages = 0;
  uint64_t epochs = 0;   // all
  uint64_t counted = 0;  // after the warm-up
  tiering::Budget budget;
  StoreTotals stores;  // counted
  std::vector<Row> rows;
};

// Prints everything; returns the exit code: 1 if a rule was broken.
int report(const std::vector<Section>& sections, uint64_t seed, tools::Output output);

}  // namespace tiersim
