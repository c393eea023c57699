// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/epoch_manager.h"

#include <pthread.h>

#include <algorithm>
#include <csignal>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

namespace tiering {

using pcow::Code;
using pcow::Error;
using pcow::Result;

namespace {

// Rounds go on while each leaves clearly less than the one before, and something to gain.
constexpr int kRoundsMax = 4;
constexpr uint64_t kSmallResidue = 256;  // pages

// Steps between which others may use the region.
constexpr uint64_t kPagesPerCheckpoint = 256;

// So fast a guest may make pages dirty; a fault takes longer.
constexpr std::chrono::nanoseconds kDirtyingTime{1000};
// Looking at the page table takes one part in so many of a core at most.
constexpr int kPollCostShare = 200;

// After the host could not make it quiet.
constexpr std::chrono::milliseconds kRetryPause{10};

// Such that the next epoch may succeed.
bool may_pass(Code code) {
  return code == Code::kNoSpace || code == Code::kNoMemory || code == Code::kLogFull;
}

// The host's signals are not for this thread.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

EpochManager::EpochManager(GuardedRegion& region, EpochHost& host, const EpochOptions& options)
    : region_(region), host_(host), options_(options), interval_(options.interval) {}

EpochManager::~EpochManager() { stop(); }

Result<void> EpochManager::start() {
  const SignalsBlocked blocked;
  if (thread_.joinable()) return pcow::make_error(Code::kInvalid, "epochs are being made already");
  const pcow::MutexLock lock(mutex_);
  try {
    stopping_ = false;
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    return pcow::make_error(
        Code::kNoMemory, std::string("cannot start the thread that makes epochs: ") + error.what());
  }
  pthread_setname_np(thread_.native_handle(), "tiering-epoch");
  running_ = true;
  return {};
}

void EpochManager::stop() {
  {
    const pcow::MutexLock lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void EpochManager::flush(FlushDone done) {
  {
    const pcow::MutexLock lock(mutex_);
    ++statistics_.flushes;
    if (running_) {
      waiting_.push_back(std::move(done));
      done = nullptr;
    }
  }
  if (!done) return wake_.notify_all();
  done(pcow::make_error(Code::kInvalid, "no epochs are being made: the flush cannot be answered"));
}

bool EpochManager::running() {
  const pcow::MutexLock lock(mutex_);
  return running_;
}

EpochStatistics EpochManager::statistics() {
  const pcow::MutexLock lock(mutex_);
  return statistics_;
}

void EpochManager::run() {
  bool ended = false;
  while (!ended && wait()) {
    const Result<void> result = make_epoch();
    failed_last_ = !result;
    if (result) continue;
    ended = !may_pass(result.error().code);
    count([](EpochStatistics& now) { ++now.failed_epochs; });
    cover_flushes();
    answer(std::exchange(covered_, {}), result.error());
    host_.epoch_failed(result.error(), ended);
  }
  std::vector<FlushDone> left;
  {
    const pcow::MutexLock lock(mutex_);
    running_ = false;
    left = std::exchange(waiting_, {});
  }
  answer(left, pcow::make_error(Code::kInvalid, "no more epochs are being made"));
}

// Wakes up now and then to see whether the log has room for what is dirty by now: what does not fit
// in the log cannot become an epoch, so the epoch has to end before. After a failure that is of no
// use: the next try is due after the interval.
bool EpochManager::wait() {
  const Clock::time_point due = Clock::now() + interval_.current();
  for (;;) {
    const Clock::time_point poll = failed_last_ ? due : Clock::now() + poll_;
    {
      const pcow::MutexLock lock(mutex_);
      const auto woken = [&]() PCOW_REQUIRES(mutex_) { return stopping_ || !waiting_.empty(); };
      while (!woken() && Clock::now() < std::min(due, poll)) {
        wake_.wait_until(mutex_, std::min(due, poll));
      }
      if (stopping_) return false;
      if (!waiting_.empty()) return true;
    }
    if (Clock::now() >= due) return true;
    if (!log_is_filling()) continue;
    count([](EpochStatistics& now) { ++now.early_epochs; });
    return true;
  }
}

void EpochManager::cover_flushes() {
  const pcow::MutexLock lock(mutex_);
  std::move(waiting_.begin(), waiting_.end(), std::back_inserter(covered_));
  waiting_.clear();
}

void EpochManager::pause_before_retry() {
  const Clock::time_point end = Clock::now() + kRetryPause;
  const pcow::MutexLock lock(mutex_);
  while (!stopping_ && Clock::now() < end) wake_.wait_until(mutex_, end);
}

bool EpochManager::log_is_filling() {
  const Clock::time_point start = Clock::now();
  uint64_t room = 0;
  const auto status = region_.with([&](Region& region) {
    room = region.log_state().room_pages;
    return region.status();
  });
  const auto cost = Clock::now() - start;
  poll_ = std::max<std::chrono::nanoseconds>(kDirtyingTime * static_cast<int64_t>(room / 4 + 1),
                                             kPollCostShare * cost);
  return status && status->dirty_bytes / pcow::kPageSize > room / 4;
}

Result<void> EpochManager::make_epoch() {
  if (sealed_) PCOW_TRY(commit());
  EpochCost cost;
  PCOW_TRY(region_.with(
      [&](Region& region) { return region.prepare_demotion(options_.demoted_pages_max); }));
  PCOW_TRY_ASSIGN(const bool changed, precopy(cost));
  if (!changed && !flush_waits()) {
    // What is stored from now on is in the next epoch anyway: no need to stop the guest.
    interval_.update(cost);
    return {};
  }
  PCOW_TRY_ASSIGN(const bool quiet, make_barrier(cost));
  if (!quiet) {
    pause_before_retry();
    return {};
  }
  interval_.update(cost);
  PCOW_TRY(commit());
  return checkpoint();
}

Result<bool> EpochManager::precopy(EpochCost& cost) {
  uint64_t before = ~uint64_t{0};
  for (int round = 0; round < kRoundsMax; ++round) {
    PCOW_TRY_ASSIGN(const PrecopyReport report,
                    region_.with([](Region& region) { return region.precopy(); }));
    cost.armed_pages += report.found_pages;
    count([&](EpochStatistics& now) {
      ++now.precopy_rounds;
      now.precopied_pages += report.found_pages;
      now.logged_bytes += report.logged_bytes;
    });
    if (report.idle) return false;
    if (report.log_filling || report.found_pages <= kSmallResidue) break;
    if (report.found_pages > before / 4 * 3) break;
    before = report.found_pages;
  }
  return true;
}

Result<bool> EpochManager::make_barrier(EpochCost& cost) {
  Result<BarrierReport> report = pcow::make_error(Code::kInternal, "the barrier was left out");
  const auto body = [&] {
    const Clock::time_point start = Clock::now();
    cover_flushes();  // they came before the barrier, so what they wait for is in the epoch
    report = region_.with([](Region& region) { return region.barrier(); });
    cost.pause = Clock::now() - start;
  };
  if (!host_.while_quiet(body)) return false;
  if (!report) return std::move(report).error();
  sealed_ = true;
  cost.armed_pages += report->residue_pages;
  count([&](EpochStatistics& now) {
    now.residue_pages += report->residue_pages;
    now.pinned_pages += report->pinned_pages;
    now.logged_bytes += report->logged_bytes;
    now.demoted_pages += report->demoted_pages;
    now.kept_pages += report->kept_pages;
    now.interval = interval_.current();
    now.pause_ns.record(static_cast<uint64_t>(cost.pause.count()));
  });
  if (report->demotion_error) host_.epoch_failed(*report->demotion_error, false);
  return true;
}

Result<void> EpochManager::commit() {
  PCOW_TRY_ASSIGN(const pcow::Epoch epoch,
                  region_.with([](Region& region) { return region.commit_epoch(); }));
  sealed_ = false;
  count([](EpochStatistics& now) { ++now.epochs; });
  answer(std::exchange(covered_, {}), epoch);
  return {};
}

bool EpochManager::flush_waits() {
  const pcow::MutexLock lock(mutex_);
  return !waiting_.empty();
}

// Goes on after the next epoch if somebody waits for that. What is left takes room in the log,
// which log_pages() makes by itself when there is none.
Result<void> EpochManager::checkpoint() {
  bool done = false;
  do {
    PCOW_TRY_ASSIGN(const pcow::CheckpointReport report, region_.with([](Region& region) {
      return region.checkpoint(kPagesPerCheckpoint);
    }));
    count([&](EpochStatistics& now) { now.checkpointed_pages += report.stored_pages; });
    done = report.done;
  } while (!done && !flush_waits());
  return {};
}

void EpochManager::answer(const std::vector<FlushDone>& flushes,
                          const Result<pcow::Epoch>& result) {
  for (const FlushDone& done : flushes) done(result);
}

}  // namespace tiering
