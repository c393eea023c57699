// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <csignal>

namespace tools {

// Holds back SIGINT, SIGTERM and SIGHUP while a file is being changed; one that arrived meanwhile
// takes effect at the end. What it guards must be short, or look at pending() now and then and end
// early, or the program seems to ignore Ctrl-C. SIGPIPE is held as well: nobody may want to see the
// progress any more, which is no reason to leave a file half made.
class SignalHold {
 public:
  SignalHold();
  ~SignalHold();
  SignalHold(const SignalHold&) = delete;
  SignalHold& operator=(const SignalHold&) = delete;

  // Whether one of the first three has arrived.
  bool pending() const;
  // Waits until `fd` can be read without blocking. Returns false when one of those arrived first.
  bool wait_readable(int fd) const;
  // The signals blocked before: what a child process is to start with.
  const sigset_t& previous() const { return previous_; }

 private:
  sigset_t ending_;  // those that pending() tells of
  sigset_t previous_;
};

}  // namespace tools
