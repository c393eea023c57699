// SPDX-License-Identifier: BSD-3-Clause
//
// Keeps what a guest makes dirty within what the log has room for, whatever the thread that makes
// epochs is doing: it may be waiting for the medium.
//
//             bound > ⅓                   bound > ⅔
//   watching ───────────▶ filling() is called ───────────▶ guest held quiet
//      ▲                                                        │
//      └──── looked(): there is room ◀── barrier, meanwhile ────┘
//
// The barrier is made while the guest is held, so that it does not run in between.
//
// The bound comes from the process's page faults (log_watch.h), so watching costs no look at a page
// table, and no lock but one of its own.
//
// While the maker of epochs waits for something that may never come (a full medium: `waits`), a
// guest is held in slices, so that a host whose main loop holds it gets other work done; what the
// guest stores in between is little.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <thread>

#include "pcow/base/mutex.h"
#include "tiering/epoch_host.h"
#include "tiering/log_watch.h"

namespace tiering {

struct BrakeStatistics {
  uint64_t holds = 0;
  std::chrono::nanoseconds held{0};
};

class GuestBrake {
 public:
  // `filling` is called by the brake's thread, without a lock, once after each looked().
  GuestBrake(EpochHost& host, std::function<void()> filling)
      : host_(host), filling_(std::move(filling)) {}
  // stop().
  ~GuestBrake() { stop(); }
  GuestBrake(const GuestBrake&) = delete;
  GuestBrake& operator=(const GuestBrake&) = delete;

  // Nothing is watched before the first looked(). Errors: kNoMemory, kPermission.
  pcow::Result<void> start() PCOW_EXCLUDES(mutex_);
  // Lets go of the guest. REQUIRES: not called while the host is quiet.
  void stop() PCOW_EXCLUDES(mutex_);

  // What was seen just now. May be called while the host is quiet.
  void looked(const LogLook& look) PCOW_EXCLUDES(mutex_);
  // Whether the epoch should end now; whether the guest should rest.
  bool is_filling() PCOW_EXCLUDES(mutex_);
  bool is_full() PCOW_EXCLUDES(mutex_);
  // Whether epochs are waiting for something that may never come.
  void set_waits(bool waits) PCOW_EXCLUDES(mutex_);

  // EpochHost::while_quiet(), for who makes epochs: a guest that is held stays at rest. REQUIRES:
  // between start() and stop(), one call at a time.
  bool while_quiet(const std::function<void()>& body) PCOW_EXCLUDES(mutex_);

  BrakeStatistics statistics() PCOW_EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;

  void run() PCOW_EXCLUDES(mutex_);
  bool must_hold(uint64_t faults) const PCOW_REQUIRES(mutex_);
  void end_job(bool done) PCOW_REQUIRES(mutex_);
  // While the host is quiet.
  void hold() PCOW_EXCLUDES(mutex_);

  EpochHost& host_;
  const std::function<void()> filling_;
  std::thread thread_;

  pcow::Mutex mutex_;
  std::condition_variable_any changed_;
  LogWatch watch_ PCOW_GUARDED_BY(mutex_);
  bool watching_ PCOW_GUARDED_BY(mutex_) = false;
  bool told_ PCOW_GUARDED_BY(mutex_) = false;  // filling_, since the last looked()
  bool waits_ PCOW_GUARDED_BY(mutex_) = false;
  // What while_quiet() was called with, until it was carried out or refused.
  const std::function<void()>* job_ PCOW_GUARDED_BY(mutex_) = nullptr;
  bool job_done_ PCOW_GUARDED_BY(mutex_) = false;
  bool stopping_ PCOW_GUARDED_BY(mutex_) = false;
  uint64_t slice_faults_ PCOW_GUARDED_BY(mutex_) = 0;  // at the end of the last slice
  BrakeStatistics statistics_ PCOW_GUARDED_BY(mutex_);
};

}  // namespace tiering
