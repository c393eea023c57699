// SPDX-License-Identifier: BSD-3-Clause
//
// A program made of verbs: the command table and the frame around a verb.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tools/common/failure.h"

namespace tools {

struct Command {
  const char* name;
  const char* usage;    // "FILE SIZE", as in the overview
  const char* summary;  // one line
  // Runs the verb with the words after it; returns the exit code or throws Failure.
  int (*run)(const std::vector<std::string>& args);
  int exit_of_error = kExitError;  // unless a Failure tells another; from the first allocation on
};

struct Program {
  const char* name;
  const char* summary;
  const char* closing;  // printed after the overview: where the exit codes and the manual are
  std::span<const Command> commands;
};

// main(): picks the verb, turns a Failure into "PROGRAM: message" on stderr, and makes a standard
// output that could not be written an error.
int run_program(const Program& program, int argc, char** argv);

// A verb that is made of verbs itself: "tierctl snapshot create".
struct Subcommand {
  const char* name;
  int (*run)(const std::vector<std::string>& args);
};

// Runs the one that the first of `args` names; --help prints `usage`.
int run_subcommand(std::span<const Subcommand> subcommands, const char* usage,
                   const std::vector<std::string>& args);

// At the beginning of main(), with a name that lasts: memory that runs out in a destructor, from
// which no exception can come, ends the program with the message and exit code of an error, and not
// by a signal.
void expect_lack_of_memory(const char* program);

// The end of main(): the exit code, or an error if what was printed did not reach the standard
// output. A full file system or a closed pipe behind it must not look like success.
int flush_stdout(const char* program, int exit_code);

}  // namespace tools
