// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/program.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string_view>

#include "tools/common/failure.h"

namespace tools {
namespace {

const char* program_name = "";
int exit_of_error = kExitError;

// Takes no memory but what the language has in reserve.
[[noreturn]] void on_terminate() {
  try {
    const std::exception_ptr error = std::current_exception();
    if (error) std::rethrow_exception(error);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: %s\n", program_name, std::strerror(ENOMEM));
    std::_Exit(exit_of_error);
  } catch (...) {
    // A defect: with a core dump, which says where.
  }
  std::abort();
}

// The next file that is opened gets the number of a standard stream that is closed: an image, which
// would take in what is printed. So these numbers are taken, by something that using them fails on
// as before: /dev/null, open the wrong way round.
void hold_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    if (open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) std::_Exit(exit_of_error);
  }
}

void print_overview(const Program& program) {
  std::printf("usage: %s COMMAND [OPTIONS] ...\n%s\n\nCommands:\n", program.name, program.summary);
  size_t width = 0;
  for (const Command& command : program.commands) {
    width = std::max(width, std::strlen(command.name));
  }
  for (const Command& command : program.commands) {
    std::printf("  %-*s %-26s %s\n", static_cast<int>(width), command.name, command.usage,
                command.summary);
  }
  std::printf(
      "\n'%s COMMAND --help' lists the options of a command, %s-COMMAND(1) explains them.\n%s",
      program.name, program.name, program.closing);
}

// Takes no memory: where that runs out, the command's exit code must be known.
const Command* find_command(const Program& program, std::string_view verb) {
  for (const Command& command : program.commands) {
    if (verb == command.name) return &command;
  }
  return nullptr;
}

int run_command(const Program& program, const Command* command,
                const std::vector<std::string>& words) {
  if (words.empty()) throw UsageError("expecting a command");
  const std::string& verb = words.front();
  if (verb == "-h" || verb == "--help" || verb == "help") {
    print_overview(program);
    return kExitOk;
  }
  if (verb == "-V" || verb == "--version") {
    std::printf("%s %s\n", program.name, TOOLS_VERSION);
    return kExitOk;
  }
  if (command != nullptr) return command->run({words.begin() + 1, words.end()});
  if (verb.starts_with('-')) throw UsageError("unknown option '" + verb + "'");
  throw UsageError("unknown command '" + verb + "'");
}

}  // namespace

int run_subcommand(std::span<const Subcommand> subcommands, const char* usage,
                   const std::vector<std::string>& args) {
  const std::string word = args.empty() ? "" : args.front();
  if (word == "-h" || word == "--help") {
    std::fputs(usage, stdout);
    return kExitOk;
  }
  std::string expected;
  for (const Subcommand& subcommand : subcommands) {
    if (word == subcommand.name) return subcommand.run({args.begin() + 1, args.end()});
    if (!expected.empty()) expected += &subcommand == &subcommands.back() ? " or " : ", ";
    expected += "'" + std::string(subcommand.name) + "'";
  }
  throw UsageError("expecting " + expected + (word.empty() ? "" : ", not '" + word + "'"));
}

void expect_lack_of_memory(const char* program) {
  program_name = program;
  std::set_terminate(on_terminate);
}

int flush_stdout(const char* program, int exit_code) {
  errno = 0;
  if (std::ferror(stdout) == 0 && std::fflush(stdout) == 0) return exit_code;
  std::fprintf(stderr, "%s: cannot write the standard output: %s\n", program,
               errno != 0 ? std::strerror(errno) : "write error");
  return exit_code == kExitOk ? exit_of_error : exit_code;
}

int run_program(const Program& program, int argc, char** argv) {
  expect_lack_of_memory(program.name);
  const Command* const command = argc > 1 ? find_command(program, argv[1]) : nullptr;
  if (command != nullptr) exit_of_error = command->exit_of_error;
  int exit_code = exit_of_error;
  hold_standard_streams();
  try {
    exit_code = run_command(program, command, {argv + (argc > 0 ? 1 : 0), argv + argc});
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s: %s\nTry '%s%s%s --help' for more information\n", program.name,
                 error.what(), program.name, command != nullptr ? " " : "",
                 command != nullptr ? command->name : "");
  } catch (const Failure& failure) {
    // What was printed so far belongs in front of the message.
    std::fflush(stdout);
    std::fprintf(stderr, "%s: %s\n", program.name, failure.what());
    exit_code = failure.exit_code().value_or(exit_of_error);
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: %s\n", program.name, std::strerror(ENOMEM));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: internal error: %s\n", program.name, error.what());
  }
  return flush_stdout(program.name, exit_code);
}

}  // namespace tools
