// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl: looks at and controls the tiered memory of running guests, over QMP.
#include <array>

#include "tools/common/program.h"
#include "tools/tierctl/commands.h"

namespace {

constexpr std::array kCommands = {
    tools::Command{"status", "[NODE]", "show the pcow nodes of a guest", tierctl::run_status},
    tools::Command{"commit", "[NODE]", "make their content durable", tierctl::run_commit},
    tools::Command{"snapshot", "create|list|delete ...", "keep their content under a name",
                   tierctl::run_snapshot},
    tools::Command{"policy", "set|get|list ...", "choose what they keep in DRAM",
                   tierctl::run_policy},
    tools::Command{"explain", "NODE PAGE|RANGE", "tell where pages are, and why",
                   tierctl::run_explain},
    tools::Command{"top", "[NODE]", "show what they do, again and again", tierctl::run_top},
    tools::Command{"events", "[NODE]", "print what happens to them as it happens",
                   tierctl::run_events},
    tools::Command{"log-level", "[LEVEL]", "show, or set, what QEMU logs of them",
                   tierctl::run_log_level},
    tools::Command{"metrics", "[NODE]", "print their state as OpenMetrics", tierctl::run_metrics},
};

}  // namespace

int main(int argc, char** argv) {
  return tools::run_program(
      {.name = "tierctl",
       .summary = "Looks at and controls the tiered pcow memory of running guests, over QMP.",
       .closing = "Exit codes: 0 success, 1 error.\n",
       .commands = kCommands},
      argc, argv);
}
