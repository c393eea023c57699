// SPDX-License-Identifier: BSD-3-Clause
//
// pcow-img: creates and examines pcow images. Verbs, options, JSON keys and exit codes follow
// qemu-img(1) wherever it has them.
#include <array>
#include <csignal>

#include "tools/common/program.h"
#include "tools/pcow-img/commands.h"

namespace {

constexpr std::array kCommands = {
    tools::Command{"create", "FILE SIZE", "create a thin image", pcow_img::run_create},
    tools::Command{"info", "FILE", "describe an image", pcow_img::run_info},
    tools::Command{"check", "FILE", "verify every structure of an image", pcow_img::run_check},
    tools::Command{"scrub", "FILE", "verify data that snapshots keep", pcow_img::run_scrub},
    tools::Command{"map", "FILE", "list where the image holds data", pcow_img::run_map},
    tools::Command{"resize", "FILE [+|-]SIZE", "change the virtual size", pcow_img::run_resize},
    tools::Command{"discard", "--offset N --size N FILE", "give up guest memory",
                   pcow_img::run_discard},
    tools::Command{"convert", "SRC DST", "copy to another format", pcow_img::run_convert},
    tools::Command{"compare", "FILE1 FILE2", "compare guest memory", pcow_img::run_compare,
                   pcow_img::kCompareError},
    tools::Command{"measure", "FILE | --size SIZE", "tell how much file space is needed",
                   pcow_img::run_measure},
    tools::Command{"bench", "FILE", "time loads and stores", pcow_img::run_bench},
    tools::Command{"snapshot", "[-l|-c|-a|-d NAME] FILE", "list, create, apply, delete snapshots",
                   pcow_img::run_snapshot},
    tools::Command{"rebase", "-b BASE FILE", "change the base of an image", pcow_img::run_rebase},
    tools::Command{"commit", "FILE", "write an image down into its base", pcow_img::run_commit},
};

}  // namespace

int main(int argc, char** argv) {
  // A limit on the size of files (ulimit -f) is to be an error with a message, not a signal.
  std::signal(SIGXFSZ, SIG_IGN);
  return tools::run_program(
      {.name = "pcow-img",
       .summary = "Creates and examines pcow images: copy-on-write memory for virtual machines.",
       .closing = "SIZE is in bytes; the suffixes k, M, G, T, P and E are powers of 1024.\n"
                  "Exit codes: 0 success, 1 error; check also 2 corrupt, 3 leaks, 63 unsupported;\n"
                  "scrub: 2 damaged, 63 unsupported;\n"
                  "compare: 0 identical, 1 different, 2 error.\n",
       .commands = kCommands},
      argc, argv);
}
