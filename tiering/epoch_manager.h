// SPDX-License-Identifier: BSD-3-Clause
//
// Makes epochs of a region, one after the other, in a thread of its own.
//
//   wait ──▶ prepare ──▶ precopy … ──▶ barrier ──▶ commit ──▶ checkpoint … ──▶ wait
//            the guest runs            quiet       the guest runs
//
// What is dirty at the barrier has to fit in the log, so an epoch ends early when the log is
// filling, and a guest that is faster than that is held (guest_brake.h).
//
// An epoch that fails because the medium or memory is full is tried again, after pauses that grow,
// until it succeeds or stop() is called.
//
// Threads and locks: the thread takes the region's lock for each step alone, so that others get in
// between, and holds no lock while it asks the host for quiet; the barrier takes the region's lock
// inside of that. So the order is: the host's locks → region → image, brake.
#pragma once

#include <tiering/region.h>
#include <condition_variable>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "pcow/base/mutex.h"
#include "tiering/epoch_host.h"
#include "tiering/epoch_interval.h"
#include "tiering/guarded_region.h"
#include "tiering/guest_brake.h"
#include "tiering/histogram.h"

namespace tiering {

struct EpochOptions {
  IntervalOptions interval = {};
  uint64_t demoted_pages_max = 16384;  // by one barrier, about
};

struct EpochStatistics {
  uint64_t epochs = 0;        // committed
  uint64_t early_epochs = 0;  // of them before their time, because the log was filling
  uint64_t failed_epochs = 0;
  uint64_t precopy_rounds = 0;
  uint64_t precopied_pages = 0;
  uint64_t residue_pages = 0;
  uint64_t pinned_pages = 0;
  uint64_t logged_bytes = 0;
  uint64_t checkpointed_pages = 0;
  uint64_t demoted_pages = 0;
  uint64_t kept_pages = 0;  // planned to be demoted, and stored to before
  uint64_t flushes = 0;
  uint64_t holds = 0;                // of a guest that was faster than the log
  std::chrono::nanoseconds held{0};  // in all of them
  std::chrono::nanoseconds interval{0};
  Histogram pause_ns;  // of the barrier itself, without what the host takes to make it quiet
};

class EpochManager {
 public:
  using FlushDone = std::function<void(const pcow::Result<pcow::Epoch>&)>;

  // REQUIRES: EpochInterval::check(options.interval); a region with kEpoch. Both outlive it.
  EpochManager(GuardedRegion& region, EpochHost& host, const EpochOptions& options);
  // stop().
  ~EpochManager();
  EpochManager(const EpochManager&) = delete;
  EpochManager& operator=(const EpochManager&) = delete;

  // While it runs nobody else may call commit() or the functions of epochs of the region.
  // Errors: kInvalid (it runs, or ended by itself and was not stopped), kNoMemory (no thread),
  // kPermission (page faults cannot be counted).
  pcow::Result<void> start() PCOW_EXCLUDES(mutex_);
  // Whether epochs are being made.
  bool running() PCOW_EXCLUDES(mutex_);
  // Ends the thread, after the epoch that is being made. What changed since is not committed:
  // Region::commit() does that. Flushes that wait fail with kInvalid.
  // REQUIRES: not called in while_quiet(), nor with a lock that this takes.
  void stop() PCOW_EXCLUDES(mutex_);

  enum class WhenFull {
    kFail,  // a flush fails with the epoch that it waits for
    kWait,  // or waits for the medium to have room again, or memory
  };
  // Calls `done` when everything that was stored before this call is durable, or failed to become
  // so; in the manager's thread, or in this one if it does not run. Thread-safe, does not block.
  void flush(FlushDone done, WhenFull when_full = WhenFull::kFail) PCOW_EXCLUDES(mutex_);

  EpochStatistics statistics() PCOW_EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  struct Flush {
    FlushDone done;
    WhenFull when_full = WhenFull::kFail;
  };

  void run() PCOW_EXCLUDES(mutex_);
  // Whether the next epoch may succeed.
  bool fail(const pcow::Error& error) PCOW_EXCLUDES(mutex_);
  void recover();
  // Until the next epoch is due; false: stop.
  bool wait() PCOW_EXCLUDES(mutex_);
  void pause_before_retry() PCOW_EXCLUDES(mutex_);
  void log_may_fill() PCOW_EXCLUDES(mutex_);
  // Looks at the page table: whether the epoch has to end.
  bool log_is_filling();
  bool flush_waits() PCOW_EXCLUDES(mutex_);
  static void move_all(std::vector<Flush>& from, std::vector<Flush>& to);
  void cover_flushes() PCOW_EXCLUDES(mutex_);
  // False: the host could not make it quiet.
  pcow::Result<bool> make_epoch();
  // False: there is nothing to make an epoch of.
  pcow::Result<bool> precopy(EpochCost& cost);
  // Whether the host could make it quiet.
  pcow::Result<bool> make_barrier(EpochCost& cost);
  pcow::Result<void> commit();
  pcow::Result<void> checkpoint();
  static void answer(const std::vector<Flush>& flushes, const pcow::Result<pcow::Epoch>& result);
  template <typename Fn>
  void count(const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    fn(statistics_);
  }

  GuardedRegion& region_;
  EpochHost& host_;
  const EpochOptions options_;
  GuestBrake brake_;
  std::thread thread_;

  // Of the thread.
  EpochInterval interval_;
  bool sealed_ = false;                      // a barrier waits for its commit
  bool due_ = false;                         // the host could not make it quiet
  bool failing_ = false;                     // the last epoch failed
  std::chrono::nanoseconds retry_pause_{0};  // before the next try, then
  std::vector<Flush> covered_;               // by that barrier
  std::vector<Flush> later_;                 // were there when an epoch failed, and wait
  std::chrono::nanoseconds look_pause_{0};   // between looks that nothing asks for
  uint64_t pinned_pages_ = 0;                // at the last barrier; each is dirty again

  pcow::Mutex mutex_;
  std::condition_variable_any wake_;
  bool running_ PCOW_GUARDED_BY(mutex_) = false;
  bool stopping_ PCOW_GUARDED_BY(mutex_) = false;
  bool log_may_fill_ PCOW_GUARDED_BY(mutex_) = false;  // the brake says so
  std::vector<Flush> waiting_ PCOW_GUARDED_BY(mutex_);
  EpochStatistics statistics_ PCOW_GUARDED_BY(mutex_);
};

}  // namespace tiering
