// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/signal_hold.h"

namespace tools {

SignalHold::SignalHold() {
  sigset_t held;
  sigemptyset(&held);
  sigaddset(&held, SIGINT);
  sigaddset(&held, SIGTERM);
  sigaddset(&held, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &held, &previous_);
}

SignalHold::~SignalHold() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

}  // namespace tools
