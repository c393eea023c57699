// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <csignal>

namespace tools {

// Holds back SIGINT, SIGTERM and SIGHUP while a file is being changed; one that arrived meanwhile
// takes effect at the end. What it guards must be short, or the program seems to ignore Ctrl-C.
class SignalHold {
 public:
  SignalHold();
  ~SignalHold();
  SignalHold(const SignalHold&) = delete;
  SignalHold& operator=(const SignalHold&) = delete;

 private:
  sigset_t previous_;
};

}  // namespace tools
