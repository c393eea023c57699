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
//
// What moves between DRAM and the image is prepared before an epoch, by a policy (migration.h) or
// by the limit of the region alone.
//
// Snapshots and deletions of the image are made by the thread, too (epoch_snapshots.cc): a snapshot
// between the commit of an epoch and the first page of the next, a deletion in steps while it would
// wait.
//
// Several regions can make an epoch of the same moment: hold() has each thread stop in front of its
// barrier, then their barriers are made by who keeps the guest quiet.
//
//   hold() … held      barrier_held() of all, quiet      release() of all
#pragma once

#include <tiering/region.h>
#include <condition_variable>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "pcow/base/mutex.h"
#include "tiering/epoch_host.h"
#include "tiering/epoch_interval.h"
#include "tiering/guarded_region.h"
#include "tiering/guest_brake.h"
#include "tiering/histogram.h"
#include "tiering/migration.h"

namespace tiering {

struct EpochOptions {
  IntervalOptions interval = {};
  uint64_t demoted_pages_max = 16384;  // by one barrier, about
};

struct EpochStatistics {
  uint64_t epochs = 0;        // committed
  uint64_t early_epochs = 0;  // of them before their time, because the log was filling
  uint64_t failed_epochs = 0;
  uint64_t restarts = 0;  // of epochs that did not fit in the log, which grew
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
  using Done = std::function<void(const pcow::Result<void>&)>;

  // REQUIRES: EpochInterval::check(options.interval); a region with kEpoch. All outlive it.
  // `migration` may be null: then pages leave DRAM by nothing but dram_size.
  EpochManager(GuardedRegion& region, EpochHost& host, const EpochOptions& options,
               Migration* migration = nullptr);
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

  // Has an epoch made now, and keeps it under a name. `done` is called like that of flush(). The
  // epoch holds whatever becomes of the snapshot. Errors: those of Region::create_snapshot() and of
  // the epoch. Thread-safe, does not block.
  void create_snapshot(std::string name, Done done) PCOW_EXCLUDES(mutex_);
  // Begins to delete a snapshot, as soon as no epoch is under way; `done` says whether it is gone.
  // The rest is done in steps when there is nothing better to do, and one in front of each epoch.
  // Errors: those of Region::begin_deletion(). Thread-safe, does not block.
  void delete_snapshot(std::string name, Done done) PCOW_EXCLUDES(mutex_);
  // What the last step of a deletion failed with, if it did; it is tried again after each epoch,
  // unless the image is damaged.
  std::optional<pcow::Error> deletion_error() PCOW_EXCLUDES(mutex_);

  // Calls `held`, in the manager's thread, when that has copied what it can and stands in front of
  // its barrier: it stays there until release(), or stop(). Flushes wait meanwhile. With an error,
  // in this thread, or in the manager's, if it does not run, stops, or is held already; then there
  // is nothing to release.
  void hold(Done held) PCOW_EXCLUDES(mutex_);
  // Makes the barrier for the thread, which commits it after release(). Snapshots that were asked
  // for before are of this epoch. REQUIRES: nobody stores into the region but by way of what is
  // pinned. Errors: kInvalid (not held), those of Region::barrier().
  pcow::Result<void> barrier_held() PCOW_EXCLUDES(mutex_);
  void release() PCOW_EXCLUDES(mutex_);

 private:
  using Clock = std::chrono::steady_clock;
  struct Flush {
    FlushDone done;
    WhenFull when_full = WhenFull::kFail;
  };
  struct Request {
    std::string name;
    Done done;
  };
  enum class Hold { kNone, kWanted, kHeld, kInBarrier };
  enum class Deletion {
    kNone,
    kSteps,
    kAfterEpoch,  // it waits for a barrier, or is tried again
  };

  void run() PCOW_EXCLUDES(mutex_);
  // Whether the next epoch may succeed.
  bool fail(const pcow::Error& error) PCOW_EXCLUDES(mutex_);
  void recover();
  // Until the next epoch is due; false: stop.
  bool wait() PCOW_EXCLUDES(mutex_);
  // Whether there is something to do before the next epoch is due.
  bool is_asked() const PCOW_REQUIRES(mutex_) {
    return !waiting_.empty() || !snapshots_waiting_.empty() || hold_ == Hold::kWanted;
  }
  bool epoch_wanted() PCOW_EXCLUDES(mutex_);

  // epoch_snapshots.cc
  // Whether an epoch has to be made before deletions can begin.
  bool begin_deletions() PCOW_EXCLUDES(mutex_);
  void deletion_step() PCOW_EXCLUDES(mutex_);
  void freeze() PCOW_EXCLUDES(mutex_);
  // Stands in front of the barrier until it is released; whether it was made.
  bool be_held() PCOW_EXCLUDES(mutex_);
  void end_hold(const pcow::Error& error) PCOW_EXCLUDES(mutex_);
  void cover_snapshots() PCOW_EXCLUDES(mutex_);
  void answer_requests(const pcow::Error& error) PCOW_EXCLUDES(mutex_);
  pcow::Result<BarrierReport> timed_barrier();
  void count_barrier(const BarrierReport& report) PCOW_EXCLUDES(mutex_);
  void pause_before_retry() PCOW_EXCLUDES(mutex_);
  void log_may_fill() PCOW_EXCLUDES(mutex_);
  // What was seen: room in the log, and dirty pages but for those that are pinned.
  void tell_brake(uint64_t room_pages, uint64_t dirty_pages, uint64_t faults);
  // Looks at the page table: whether the epoch has to end.
  bool log_is_filling();
  static void move_all(std::vector<Flush>& from, std::vector<Flush>& to);
  void cover_flushes() PCOW_EXCLUDES(mutex_);
  // False: the host could not make it quiet.
  pcow::Result<bool> make_epoch();
  pcow::Result<void> prepare_moves();
  bool rounds_were_useless() const;
  // False: there is nothing to make an epoch of.
  pcow::Result<bool> precopy(EpochCost& cost);
  // Whether the host could make it quiet.
  pcow::Result<bool> make_barrier();
  pcow::Result<void> commit();
  pcow::Result<void> checkpoint();
  pcow::Result<bool> grow_log();
  static void answer(const std::vector<Flush>& flushes, const pcow::Result<pcow::Epoch>& result);
  template <typename Fn>
  void count(const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    fn(statistics_);
  }

  GuardedRegion& region_;
  EpochHost& host_;
  const EpochOptions options_;
  Migration* const migration_;
  GuestBrake brake_;
  const uint64_t pages_;  // of the region
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
  std::vector<Request> to_freeze_;           // snapshots of that barrier
  bool between_epochs_ = true;               // nothing of the next epoch is logged
  Deletion deletion_ = Deletion::kSteps;     // of an earlier session, maybe
  std::chrono::nanoseconds pause_{0};        // of the last barrier
  uint64_t residue_ = 0;                     // and the pages that it copied
  bool log_is_small_ = false;                // an epoch had to end early
  uint64_t first_found_ = 0;                 // pages, by the first round; 0: there was none
  int epochs_without_ = 0;                   // rounds in front of the barrier are of no use

  pcow::Mutex mutex_;
  std::condition_variable_any wake_;
  bool running_ PCOW_GUARDED_BY(mutex_) = false;
  bool stopping_ PCOW_GUARDED_BY(mutex_) = false;
  bool log_may_fill_ PCOW_GUARDED_BY(mutex_) = false;  // the brake says so
  std::vector<Flush> waiting_ PCOW_GUARDED_BY(mutex_);
  std::vector<Request> snapshots_waiting_ PCOW_GUARDED_BY(mutex_);
  std::vector<Request> deletions_waiting_ PCOW_GUARDED_BY(mutex_);
  std::optional<pcow::Error> deletion_error_ PCOW_GUARDED_BY(mutex_);
  Hold hold_ PCOW_GUARDED_BY(mutex_) = Hold::kNone;
  Done held_ PCOW_GUARDED_BY(mutex_);
  std::optional<BarrierReport> held_barrier_ PCOW_GUARDED_BY(mutex_);
  EpochStatistics statistics_ PCOW_GUARDED_BY(mutex_);
};

}  // namespace tiering
