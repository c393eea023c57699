// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl and tiersim with calls to the kernel failing, and memory running out, one after the
// other: the exit code and the message say so, or what is printed is what is printed without. And
// what any program does when a destructor finds no memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/support/test_seed.h"
#include "tests/unit/tools/program_run.h"
#include "tools/common/program.h"

int tierctl_main(int argc, char** argv);
int tiersim_main(int argc, char** argv);

namespace {

using test::Call;
using test::Fault;
using test::ProgramOutcome;
using testing::HasSubstr;

constexpr std::string_view kGreeting =
    R"({"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10}},"capabilities":[]}})"
    "\r\n";
// A node, its policy and some of its pages.
constexpr std::string_view kNodes =
    R"([{"id":"pm0","mem-path":"vm.pcow","size":67108864,"epoch":7,"written-pages":3,)"
    R"("zero-pages":0,"demoted-pages":2,"pause-ns":1000,"policy":"heat","moves":{"steps":12,)"
    R"("last-failure":"cannot copy pages to DRAM"},"offset":28672,"length":4096,"place":"dram",)"
    R"("heat":{"per-mille":753,"written":true,"idle":0,"cool-down":3},"verdict":"belongs"}])";

constexpr std::string_view kEvent =
    R"({"event":"PCOW_LOG","timestamp":{"seconds":1,"microseconds":2},)"
    R"("data":{"id":"pm0","level":"info","message":"snapshot 'a' created"}})"
    "\r\n";

// Answers every command with an event and the same, in a process of its own.
class QmpServer {
 public:
  explicit QmpServer(const std::string& path) : listener_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::ranges::copy(path, address.sun_path);
    EXPECT_EQ(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    process_ = fork();
    if (process_ == 0) serve();
  }
  ~QmpServer() {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
    close(listener_);
  }
  QmpServer(const QmpServer&) = delete;
  QmpServer& operator=(const QmpServer&) = delete;

 private:
  static void answer(int client, const std::string& request) {
    const size_t at = request.rfind("\"id\":");
    const std::string id =
        at == std::string::npos ? "0" : request.substr(at + 5, request.find('}', at) - at - 5);
    const auto is_about = [&](const char* what) { return request.find(what) != std::string::npos; };
    std::string_view answer = kNodes;
    if (is_about("qmp_capabilities")) answer = "{}";
    if (is_about("log-level")) answer = R"({"level":"info"})";
    const std::string reply =
        std::string(kEvent) + "{\"return\": " + std::string(answer) + ", \"id\": " + id + "}\r\n";
    (void)!write(client, reply.data(), reply.size());
  }

  [[noreturn]] void serve() const {
    std::signal(SIGPIPE, SIG_IGN);
    while (true) {
      const int client = accept(listener_, nullptr, nullptr);
      if (client < 0) _exit(1);
      (void)!write(client, kGreeting.data(), kGreeting.size());
      std::string pending;
      std::array<char, 4096> part;
      for (ssize_t n = 0; (n = read(client, part.data(), part.size())) > 0;) {
        pending.append(part.data(), static_cast<size_t>(n));
        for (size_t end = 0; (end = pending.find('\n')) != std::string::npos;) {
          answer(client, pending.substr(0, end));
          pending.erase(0, end + 1);
        }
      }
      close(client);
    }
  }

  int listener_;
  pid_t process_ = -1;
};

constexpr uint64_t kCallsAtMost = 48;

// What a program says of a file, a socket say.
struct Named {
  std::string program;
  std::string file;
};

void expect_said(const ProgramOutcome& outcome, const ProgramOutcome& undisturbed,
                 const Fault& fault, const Named& named) {
  ASSERT_TRUE(outcome.ended);
  if (outcome.exit_code == 0) {
    ASSERT_TRUE(outcome.out == undisturbed.out);
    return;
  }
  ASSERT_TRUE(outcome.hit);
  ASSERT_EQ(outcome.exit_code, 1);
  ASSERT_THAT(outcome.err, HasSubstr(named.program + ": "));
  ASSERT_THAT(outcome.err, Not(HasSubstr("internal error")));
  ASSERT_THAT(outcome.err,
              HasSubstr(fault.call == Call::kAllocate ? std::strerror(ENOMEM) : named.file));
}

// Lets these calls fail, one by one, in runs that print the same otherwise.
void fail_calls(const test::ProgramRun& run, std::span<const Fault> faults, const Named& named,
                std::mt19937_64& random) {
  const ProgramOutcome undisturbed = run_undisturbed(run);
  ASSERT_EQ(undisturbed.exit_code, 0) << describe(undisturbed);
  uint64_t failed = 0;
  for (const Fault& fault : faults) {
    const uint64_t calls = count_of(undisturbed.calls, fault.call);
    for (const uint64_t nth : test::calls_to_fail(calls, kCallsAtMost, random)) {
      SCOPED_TRACE(run.words.at(1) + ": call " + std::to_string(nth) + " of " +
                   std::to_string(calls) + ": " + fault_text(fault));
      const ProgramOutcome outcome = run_with_fault(run, fault, nth);
      SCOPED_TRACE(describe(outcome));
      expect_said(outcome, undisturbed, fault, named);
      if (testing::Test::HasFatalFailure()) return;
      ++failed;
    }
  }
  EXPECT_GT(failed, 0u);
  const ProgramOutcome interrupted = run_interrupted(run);
  EXPECT_EQ(interrupted.exit_code, 0) << describe(interrupted);
  EXPECT_TRUE(interrupted.out == undisturbed.out) << describe(interrupted);
  if (undisturbed.out.empty()) return;
  const ProgramOutcome full = run_on_full_output(run);
  EXPECT_EQ(full.exit_code, 1) << describe(full);
  EXPECT_THAT(full.err, HasSubstr("cannot write the standard output"));
}

struct TierctlCase {
  const char* name;
  std::vector<std::string> words;
  bool has_node = false;  // among the words
};

class TierctlFaultTest : public ::testing::TestWithParam<TierctlCase> {};

TEST_P(TierctlFaultTest, SaysWhatFailed) {
  std::mt19937_64 random(test::test_seed());
  const test::TempDir dir;
  const QmpServer server(dir.file("qmp"));
  const Fault faults[] = {{Call::kSocket, EIO}, {Call::kSocket, EPIPE}, {Call::kAllocate, ENOMEM}};
  std::vector<std::string> words = {"tierctl"};
  words.insert(words.end(), GetParam().words.begin(), GetParam().words.end());
  words.insert(words.end(), {"--qmp", "qmp", "--timeout", "20"});
  fail_calls({tierctl_main, words, dir.path()}, faults, {"tierctl", "'qmp'"}, random);
  words.insert(words.end(), {"--output", "json"});
  if (!GetParam().has_node) words.emplace_back("pm0");
  fail_calls({tierctl_main, words, dir.path()}, faults, {"tierctl", "'qmp'"}, random);
}

INSTANTIATE_TEST_SUITE_P(
    Verbs, TierctlFaultTest,
    ::testing::Values(
        TierctlCase{"status", {"status"}}, TierctlCase{"commit", {"commit"}},
        TierctlCase{"snapshot_create", {"snapshot", "create", "nightly"}},
        TierctlCase{"snapshot_list", {"snapshot", "list"}},
        TierctlCase{"snapshot_delete", {"snapshot", "delete", "nightly"}},
        TierctlCase{"policy_get", {"policy", "get"}},
        TierctlCase{"policy_set", {"policy", "set", "pm0", "heat", "--dram-size", "32M"}, true},
        TierctlCase{"explain", {"explain", "pm0", "7"}, true},
        TierctlCase{"top", {"top", "--count", "1", "--interval", "0.01"}},
        TierctlCase{"events", {"events", "--count", "1"}},
        TierctlCase{"log_level", {"log-level", "info"}, true}, TierctlCase{"metrics", {"metrics"}}),
    [](const auto& param) { return std::string(param.param.name); });

const void* volatile taken = nullptr;

// Takes memory to go away, as JSON values do.
class Hoarder {
 public:
  Hoarder() = default;
  Hoarder(const Hoarder&) = delete;
  Hoarder& operator=(const Hoarder&) = delete;
  ~Hoarder() {
    const std::vector<char> memory(4096);
    taken = memory.data();  // so that it is not optimized away
  }
};

constexpr int kHoardError = 7;

int run_hoard(const std::vector<std::string>&) {
  const Hoarder hoarder;
  return tools::kExitOk;
}

int hoarder_main(int argc, char** argv) {
  static constexpr tools::Command kCommands[] = {
      {"hoard", "", "takes memory at the end", run_hoard, kHoardError}};
  return tools::run_program(
      {.name = "hoarder", .summary = "", .closing = "", .commands = kCommands}, argc, argv);
}

TEST(ProgramFaultTest, WantOfMemoryInADestructorIsAnError) {
  const test::TempDir dir;
  const test::ProgramRun run = {hoarder_main, {"hoarder", "hoard"}, dir.path()};
  const ProgramOutcome undisturbed = run_undisturbed(run);
  ASSERT_EQ(undisturbed.exit_code, 0) << describe(undisturbed);
  const Fault fault{Call::kAllocate, ENOMEM};
  int last_code = 0;
  for (uint64_t nth = 1; nth <= count_of(undisturbed.calls, Call::kAllocate); ++nth) {
    const ProgramOutcome outcome = run_with_fault(run, fault, nth);
    SCOPED_TRACE(describe(outcome));
    ASSERT_TRUE(outcome.ended);
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_EQ(outcome.err, std::string("hoarder: ") + std::strerror(ENOMEM) + "\n");
    last_code = outcome.exit_code;
  }
  EXPECT_EQ(last_code, kHoardError);
}

TEST(TiersimFaultTest, SaysWhatFailed) {
  std::mt19937_64 random(test::test_seed());
  const test::TempDir dir;
  std::ofstream trace(dir.file("hot.trace"));
  // Masks of lines that are too long to lie within a std::string.
  for (int epoch = 0; epoch < 8; ++epoch) {
    trace << epoch << " r 0 10\n" << epoch << " w 2 4 0000000000000030\n";
  }
  trace.close();
  ASSERT_TRUE(trace.good());
  const Fault faults[] = {{Call::kRead, EIO}, {Call::kAllocate, ENOMEM}};
  for (const char* const output : {"human", "json"}) {
    fail_calls({tiersim_main,
                {"tiersim", "--trace", "hot.trace", "--dram-size", "64K", "--output", output},
                dir.path()},
               faults, {"tiersim", "'hot.trace'"}, random);
  }
}

}  // namespace
