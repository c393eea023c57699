// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/tools/program_run.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <stdexcept>
#include <system_error>

#include "tools/common/capture.h"

namespace test {
namespace {

constexpr unsigned kSecondsMax = 120;
constexpr int kNotStarted = 126;

// What the child tells its parent beside what it prints.
struct Told {
  bool hit = false;
  CallCounts calls{};
};

class SharedTold {
 public:
  SharedTold() {
    void* const memory =
        mmap(nullptr, sizeof(Told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    told_ = new (memory) Told;
  }
  ~SharedTold() { munmap(told_, sizeof(Told)); }
  SharedTold(const SharedTold&) = delete;
  SharedTold& operator=(const SharedTold&) = delete;
  Told& get() const { return *told_; }

 private:
  Told* told_ = nullptr;
};

// What main() is called with. Made before anything fails.
class Command {
 public:
  explicit Command(const ProgramRun& run) : main_(run.main), words_(run.words) {
    for (std::string& word : words_) pointers_.push_back(word.data());
    pointers_.push_back(nullptr);
  }
  int call() { return main_(static_cast<int>(words_.size()), pointers_.data()); }

 private:
  const Main main_;
  std::vector<std::string> words_;
  std::vector<char*> pointers_;
};

using Body = std::function<int(Command&, Told&)>;

// noexcept: what leaves main() ends the program.
[[noreturn]] void be_child(const ProgramRun& run, int out, int err, const Body& body,
                           Told& told) noexcept {
  Command command(run);
  const std::string input =
      run.input.starts_with('/') ? run.input : run.directory + "/" + run.input;
  const int in = open(input.c_str(), O_RDONLY);
  const bool ready = in >= 0 && dup2(in, STDIN_FILENO) >= 0 && dup2(out, STDOUT_FILENO) >= 0 &&
                     dup2(err, STDERR_FILENO) >= 0 && chdir(run.directory.c_str()) == 0;
  if (!ready) _exit(kNotStarted);
  alarm(kSecondsMax);
  const int code = body(command, told);
  std::fflush(stdout);  // as exit() does
  _exit(code);
}

ProgramOutcome run_child(const ProgramRun& run, int output, const Body& body) {
  const tools::Capture out("the command");
  const tools::Capture err("the command");
  const SharedTold told;
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw std::system_error(errno, std::generic_category(), "fork");
  if (child == 0) be_child(run, output >= 0 ? output : out.fd(), err.fd(), body, told.get());
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const bool ended = WIFEXITED(status);
  return {ended,          ended ? WEXITSTATUS(status) : -WTERMSIG(status),
          told.get().hit, told.get().calls,
          out.text(),     err.text()};
}

}  // namespace

std::string fault_text(const Fault& fault) {
  return call_name(fault.call) + (fault.sys_errno == kCrash
                                      ? " ends the program"
                                      : " fails with " + std::to_string(fault.sys_errno));
}

std::string describe(const ProgramOutcome& outcome) {
  return (outcome.ended ? "exit code " : "signal ") + std::to_string(outcome.exit_code) +
         "\nstandard output: " + outcome.out.substr(0, 2000) + "\nstandard error: " + outcome.err;
}

ProgramOutcome run_undisturbed(const ProgramRun& run) {
  return run_child(run, -1, [](Command& command, Told& told) {
    const CallCounter counter;
    const int code = command.call();
    told.calls = counter.counts();
    return code;
  });
}

ProgramOutcome run_with_fault(const ProgramRun& run, const Fault& fault, uint64_t nth) {
  return run_child(run, -1, [&](Command& command, Told& told) {
    // Told in front of a call that ends the process, too.
    const FaultPlan plan(fault.call, nth, fault.sys_errno, false, &told.hit);
    return command.call();
  });
}

ProgramOutcome run_interrupted(const ProgramRun& run) {
  return run_child(run, -1, [](Command& command, Told&) {
    const Interruptions interruptions;
    return command.call();
  });
}

ProgramOutcome run_on_full_output(const ProgramRun& run) {
  const int full = open("/dev/full", O_WRONLY);
  if (full < 0) throw std::system_error(errno, std::generic_category(), "/dev/full");
  ProgramOutcome outcome =
      run_child(run, full, [](Command& command, Told&) { return command.call(); });
  close(full);
  return outcome;
}

std::vector<uint64_t> calls_to_fail(uint64_t count, uint64_t most, std::mt19937_64& random) {
  const char* const text = std::getenv("PCOW_FAULT_CALLS");
  if (text != nullptr) most = std::strtoul(text, nullptr, 0);
  if (most == 0 || most > count) most = count;
  std::vector<uint64_t> calls;
  // The very first, before which nothing is set up, and one out of each other of `most` parts.
  for (uint64_t part = 0; part < most; part += fault_step()) {
    const uint64_t first = part * count / most;
    const uint64_t end = (part + 1) * count / most;
    calls.push_back(part == 0 ? 1 : 1 + first + random() % (end - first));
  }
  return calls;
}

}  // namespace test
