// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/signal_hold.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace tools {

SignalHold::SignalHold() {
  sigemptyset(&ending_);
  sigaddset(&ending_, SIGINT);
  sigaddset(&ending_, SIGTERM);
  sigaddset(&ending_, SIGHUP);
  sigset_t held = ending_;
  sigaddset(&held, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &held, &previous_);
}

SignalHold::~SignalHold() { pthread_sigmask(SIG_SETMASK, &previous_, nullptr); }

bool SignalHold::pending() const {
  sigset_t arrived;
  sigpending(&arrived);
  return sigismember(&arrived, SIGINT) == 1 || sigismember(&arrived, SIGTERM) == 1 ||
         sigismember(&arrived, SIGHUP) == 1;
}

bool SignalHold::wait_readable(int fd) const {
  // The signal itself stays pending: it is to take effect at the end.
  const int signals = signalfd(-1, &ending_, SFD_CLOEXEC);
  if (signals < 0) return !pending();
  pollfd wanted[] = {{fd, POLLIN, 0}, {signals, POLLIN, 0}};
  while (poll(wanted, 2, -1) < 0 && errno == EINTR) {
  }
  close(signals);
  return wanted[1].revents == 0;
}

}  // namespace tools
