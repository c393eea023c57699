// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/library_thread.h"

#include <pthread.h>

#include <csignal>
#include <string>
#include <system_error>
#include <utility>

namespace tiering {

pcow::Result<std::thread> start_thread(const char* name, std::function<void()> run) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  std::string refused;
  try {
    thread = std::thread(std::move(run));
    pthread_setname_np(thread.native_handle(), name);
  } catch (const std::system_error& error) {
    refused = error.what();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (refused.empty()) return thread;
  return pcow::make_error(pcow::Code::kNoMemory,
                          "cannot start the thread '" + std::string(name) + "': " + refused);
}

}  // namespace tiering
