// SPDX-License-Identifier: BSD-3-Clause
//
// Makes epochs of a region, one after the other, in a thread of its own.
//
//   wait ──▶ prepare ──▶ precopy … ──▶ barrier ──▶ commit ──▶ checkpoint … ──▶ wait
//            the guest runs            quiet       the guest runs
//
// Threads and locks: the thread takes the region's lock for each step alone, so that others get in
// between, and holds no lock while it asks the host for quiet; the barrier takes the region's lock
// inside of that. So the order is: the host's locks → region → image.
#pragma once

#include <tiering/region.h>
#include <condition_variable>
#include <functional>
#include <optional>
#include <thread>
#include <vector>

#include "pcow/base/mutex.h"
#include "tiering/epoch_interval.h"
#include "tiering/guarded_region.h"
#include "tiering/histogram.h"

namespace tiering {

// Who runs the guest.
class EpochHost {
 public:
  virtual ~EpochHost() = default;
  // Calls `body` once, in whatever thread, while nobody stores into the region but by way of what
  // is pinned, and returns afterwards. Or returns false without calling it, when that is not
  // possible now. Called without any lock of the library.
  virtual bool while_quiet(const std::function<void()>& body) = 0;
  // An epoch failed; the image keeps the last one. Unless `ended`, the next one is tried.
  virtual void epoch_failed(const pcow::Error& error, bool ended) = 0;
};

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
  // Errors: kInvalid (it runs, or ended by itself and was not stopped), kNoMemory (no thread).
  pcow::Result<void> start() PCOW_EXCLUDES(mutex_);
  // Whether epochs are being made.
  bool running() PCOW_EXCLUDES(mutex_);
  // Ends the thread, after the epoch that is being made. What changed since is not committed:
  // Region::commit() does that. Flushes that wait fail with kInvalid.
  // REQUIRES: not called in while_quiet(), nor with a lock that this takes.
  void stop() PCOW_EXCLUDES(mutex_);

  // Calls `done` when everything that was stored before this call is durable, or failed to become
  // so; in the manager's thread, or in this one if it does not run. Thread-safe, does not block.
  void flush(FlushDone done) PCOW_EXCLUDES(mutex_);

  EpochStatistics statistics() PCOW_EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;

  void run() PCOW_EXCLUDES(mutex_);
  // Until the next epoch is due; false: stop.
  bool wait() PCOW_EXCLUDES(mutex_);
  void pause_before_retry() PCOW_EXCLUDES(mutex_);
  bool log_is_filling();
  bool flush_waits() PCOW_EXCLUDES(mutex_);
  void cover_flushes() PCOW_EXCLUDES(mutex_);
  pcow::Result<void> make_epoch();
  // False: there is nothing to make an epoch of.
  pcow::Result<bool> precopy(EpochCost& cost);
  // Whether the host could make it quiet.
  pcow::Result<bool> make_barrier(EpochCost& cost);
  pcow::Result<void> commit();
  pcow::Result<void> checkpoint();
  static void answer(const std::vector<FlushDone>& flushes,
                     const pcow::Result<pcow::Epoch>& result);
  template <typename Fn>
  void count(const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    fn(statistics_);
  }

  GuardedRegion& region_;
  EpochHost& host_;
  const EpochOptions options_;
  std::thread thread_;

  // Of the thread.
  EpochInterval interval_;
  bool sealed_ = false;               // a barrier waits for its commit
  bool failed_last_ = false;          // the epoch before
  std::vector<FlushDone> covered_;    // by that barrier
  std::chrono::nanoseconds poll_{0};  // how often to look at the log's room

  pcow::Mutex mutex_;
  std::condition_variable_any wake_;
  bool running_ PCOW_GUARDED_BY(mutex_) = false;
  bool stopping_ PCOW_GUARDED_BY(mutex_) = false;
  std::vector<FlushDone> waiting_ PCOW_GUARDED_BY(mutex_);
  EpochStatistics statistics_ PCOW_GUARDED_BY(mutex_);
};

}  // namespace tiering
