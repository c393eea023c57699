// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <csignal>

namespace tools {

// Holds back SIGINT, SIGTERM and SIGHUP while a file is being changed; one that arrived meanwhile
// takes effect at the end. What it guards must be short, or look at pending() now and then and end
// early, or the program seems to ignore Ctrl-C.
class SignalHold {
 public:
  SignalHold();
  ~SignalHold();
  SignalHold(const SignalHold&) = delete;
  SignalHold& operator=(const SignalHold&) = delete;

  // Whether one of the signals has arrived.
  bool pending() const;
  // Waits until `fd` can be read without blocking. Returns false when one of the signals arrived
  // first.
  bool wait_readable(int fd) const;
  // The signals blocked before: what a child process is to start with.
  const sigset_t& previous() const { return previous_; }

 private:
  sigset_t held_;
  sigset_t previous_;
};

}  // namespace tools
