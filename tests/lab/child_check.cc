// SPDX-License-Identifier: BSD-3-Clause
#include "tests/lab/child_check.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

namespace lab {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using std::chrono::seconds;

// What the child says, one a line. The end of the stream without a result is a crash.
constexpr char kStep = 'S';  // SECONDS WHAT
constexpr char kDone = 'R';  // what run_in_child() returns

[[noreturn]] void fail_errno(const std::string& what) {
  const int error = errno;
  throw std::runtime_error(what + ": " + std::strerror(error));
}

void send_line(int fd, char kind, std::string text) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  const std::string line = kind + text + '\n';
  for (size_t sent = 0; sent < line.size();) {
    const ssize_t count = write(fd, line.data() + sent, line.size() - sent);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) _exit(EXIT_FAILURE);  // the parent is gone
    sent += static_cast<size_t>(count);
  }
}

[[noreturn]] void run_child(const Check& check, int fd, pid_t parent) {
  // Not one second of spinning longer than the test.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(EXIT_FAILURE);
  std::string result;
  try {
    check([fd](const std::string& what, int limit) {
      send_line(fd, kStep, std::to_string(limit) + ' ' + what);
    });
  } catch (const CheckFailed& failure) {
    result = std::string("failed: ") + failure.what();
  } catch (const std::exception& error) {
    result = std::string("error: ") + error.what();
  }
  std::fflush(nullptr);  // first: with the result the parent kills
  send_line(fd, kDone, result);
  _exit(EXIT_SUCCESS);
}

struct Ended {
  bool reaped = false;
  int status = 0;
  double cpu_seconds = 0;
};

// A process that spins in a page fault of its own dies at once; one that spins in a system call
// may not, and then waiting for it would never end either.
Ended kill_and_reap(pid_t child) {
  kill(child, SIGKILL);
  Ended ended;
  rusage used{};
  for (const auto end = Clock::now() + seconds(20); Clock::now() < end && !ended.reaped;) {
    const pid_t got = wait4(child, &ended.status, WNOHANG, &used);
    if (got < 0 && errno != EINTR) fail_errno("wait4");
    ended.reaped = got == child;
    if (!ended.reaped) std::this_thread::sleep_for(milliseconds(10));
  }
  const auto in_seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  ended.cpu_seconds = in_seconds(used.ru_utime) + in_seconds(used.ru_stime);
  return ended;
}

// Follows what the child says until it has a result, ends, or is late.
class Watch {
 public:
  explicit Watch(int fd) : fd_(fd) {}

  enum class End { kResult, kSilence, kLate };

  End follow() {
    for (;;) {
      const auto left = std::chrono::ceil<milliseconds>(deadline_ - Clock::now()).count();
      if (left <= 0) return End::kLate;
      pollfd poll_fd{.fd = fd_, .events = POLLIN, .revents = 0};
      const int ready = poll(&poll_fd, 1, static_cast<int>(left));
      if (ready < 0 && errno != EINTR) fail_errno("poll");
      if (ready <= 0) continue;
      std::array<char, 4096> buffer;
      const ssize_t got = read(fd_, buffer.data(), buffer.size());
      if (got < 0 && errno != EINTR) fail_errno("read");
      if (got == 0) return End::kSilence;
      if (got > 0) text_.append(buffer.data(), static_cast<size_t>(got));
      if (take_lines()) return End::kResult;
    }
  }
  const std::string& result() const { return result_; }
  const std::string& step() const { return step_; }
  int limit() const { return limit_; }

 private:
  bool take_lines() {
    for (size_t end = text_.find('\n'); end != std::string::npos; end = text_.find('\n')) {
      const std::string line = text_.substr(0, end);
      text_.erase(0, end + 1);
      if (line.front() == kDone) {
        result_ = line.substr(1);
        return true;
      }
      const size_t space = line.find(' ');
      std::from_chars(line.data() + 1, line.data() + space, limit_);
      step_ = line.substr(space + 1);
      deadline_ = Clock::now() + seconds(limit_);
    }
    return false;
  }

  int fd_;
  std::string text_;
  std::string result_;
  std::string step_ = "preparation";
  int limit_ = kStepSeconds;
  Clock::time_point deadline_ = Clock::now() + seconds(kStepSeconds);
};

std::string describe(Watch::End end, const Watch& watch, const Ended& ended) {
  const std::string cpu = std::to_string(ended.cpu_seconds).substr(0, 5) + " s of CPU time";
  if (!ended.reaped) return "error: the child cannot be killed; it was at: " + watch.step();
  if (end == Watch::End::kResult) return watch.result();
  if (end == Watch::End::kLate) {
    return "did not return: " + watch.step() + ", in " + std::to_string(watch.limit()) +
           " s (killed; it had used " + cpu + ")";
  }
  return "error: the child ended with wait status " + std::to_string(ended.status) +
         " at: " + watch.step();
}

}  // namespace

std::string run_in_child(const Check& check) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) fail_errno("pipe2");
  std::fflush(nullptr);
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) fail_errno("fork");
  if (child == 0) {
    close(ends[0]);
    run_child(check, ends[1], parent);
  }
  close(ends[1]);
  Watch watch(ends[0]);
  const Watch::End end = watch.follow();
  // A child that has said its result, or closed the pipe, is ending or has ended.
  const Ended ended = kill_and_reap(child);
  close(ends[0]);
  return describe(end, watch, ended);
}

}  // namespace lab
