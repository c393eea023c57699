// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/epoch_manager.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "tiering/kernel/page_faults.h"
#include "tiering/library_thread.h"

namespace tiering {

using pcow::Code;
using pcow::Error;
using pcow::Result;

namespace {

// Rounds go on while each leaves clearly less than the one before, and something to gain.
constexpr int kRoundsMax = 4;
constexpr uint64_t kSmallResidue = 256;  // pages

// Rounds that leave most of what the first found to the barrier only cost, when it is more than a
// little. Then they are left out of so many epochs.
constexpr uint64_t kUselessResidue = 16 * kSmallResidue;
constexpr int kEpochsWithout = 8;

// Steps between which others may use the region.
constexpr uint64_t kPagesPerCheckpoint = 256;

// Not every page that becomes dirty is a fault of this process (page_faults.h), so the page table
// is looked at now and then in any case. That takes one part in so many of a core at most.
constexpr std::chrono::milliseconds kLookPauseMin{100};
constexpr int kLookCostShare = 200;

// After the host could not make it quiet.
constexpr std::chrono::milliseconds kQuietRetryPause{10};

// After an epoch failed: twice as long each time.
constexpr std::chrono::milliseconds kRetryPauseMin{10};
constexpr std::chrono::milliseconds kRetryPauseMax{1000};

// Such that somebody else may make room.
bool is_full(Code code) { return code == Code::kNoSpace || code == Code::kNoMemory; }

// Such that the next epoch may succeed.
bool may_pass(Code code) { return is_full(code) || code == Code::kLogFull; }

// For the next epoch, once the one that is sealed is committed.
uint64_t room_of_next(const pcow::LogState& log) {
  return log.room_pages + log.under_way / (pcow::kPageSize + pcow::kLineSize);
}

}  // namespace

EpochManager::EpochManager(GuardedRegion& region, EpochHost& host, const EpochOptions& options,
                           Migration* migration)
    : region_(region),
      host_(host),
      options_(options),
      migration_(migration),
      brake_(host, [this] { log_may_fill(); }),
      pages_(region.with([](Region& mapped) { return mapped.size() / pcow::kPageSize; })),
      interval_(options.interval) {}

EpochManager::~EpochManager() { stop(); }

Result<void> EpochManager::start() {
  if (thread_.joinable()) return pcow::make_error(Code::kInvalid, "epochs are being made already");
  PCOW_TRY(brake_.start());
  const pcow::MutexLock lock(mutex_);
  stopping_ = false;
  Result<std::thread> thread = start_thread("tiering-epoch", [this] { run(); });
  if (!thread) {
    brake_.stop();
    return std::move(thread).error();
  }
  thread_ = *std::move(thread);
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
  brake_.stop();
}

void EpochManager::flush(FlushDone done, WhenFull when_full) {
  {
    const pcow::MutexLock lock(mutex_);
    ++statistics_.flushes;
    if (running_) {
      waiting_.push_back({std::move(done), when_full});
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
  const BrakeStatistics brake = brake_.statistics();
  const pcow::MutexLock lock(mutex_);
  EpochStatistics statistics = statistics_;
  statistics.holds = brake.holds;
  statistics.held = brake.held;
  return statistics;
}

void EpochManager::run() {
  log_is_filling();  // the brake begins with what is dirty
  bool ended = false;
  while (!ended && wait()) {
    const Result<bool> made = make_epoch();
    if (!made) {
      ended = !fail(made.error());
    } else if (*made && failing_) {
      recover();
    }
    due_ = made && !*made;
  }
  brake_.stop();  // nobody makes room any more
  {
    const pcow::MutexLock lock(mutex_);
    running_ = false;
  }
  const Error over{Code::kInvalid, 0, "no more epochs are being made"};
  cover_flushes();
  answer(std::exchange(covered_, {}), tl::unexpected(over));
  answer_requests(over);
  end_hold(over);
}

bool EpochManager::fail(const Error& error) {
  const bool again = may_pass(error.code);
  retry_pause_ = failing_ ? std::min<std::chrono::nanoseconds>(2 * retry_pause_, kRetryPauseMax)
                          : kRetryPauseMin;
  failing_ = true;
  brake_.set_waits(again);
  count([](EpochStatistics& now) { ++now.failed_epochs; });
  // A barrier that waits for its commit covers what came before it, and no more.
  {
    const pcow::MutexLock lock(mutex_);
    move_all(waiting_, later_);
  }
  std::vector<Flush> failed;
  for (std::vector<Flush>* flushes : {&covered_, &later_}) {
    const auto split =
        std::stable_partition(flushes->begin(), flushes->end(), [&](const Flush& flush) {
          return is_full(error.code) && flush.when_full == WhenFull::kWait;
        });
    std::move(split, flushes->end(), std::back_inserter(failed));
    flushes->erase(split, flushes->end());
  }
  answer(failed, error);
  answer_requests(error);
  end_hold(error);
  host_.epoch_failed(error, !again);
  return again;
}

void EpochManager::recover() {
  failing_ = false;
  brake_.set_waits(false);
  host_.epochs_recovered();
}

// What does not fit in the log cannot become an epoch, so the epoch has to end before. After a
// failure that is of no use: the next try is due after a pause. In between deletions go on, a step
// at a time, and one in front of an epoch that is due or asked for already: who flushes all the
// time must not keep them from their end.
bool EpochManager::wait() {
  const std::chrono::nanoseconds pause = failing_ ? retry_pause_ : interval_.current();
  const Clock::time_point due = Clock::now() + (due_ ? std::chrono::nanoseconds(0) : pause);
  Clock::time_point look = failing_ ? due : Clock::now() + look_pause_;
  for (;;) {
    const bool steps = deletion_ == Deletion::kSteps && between_epochs_;
    bool may_fill = false;
    bool asked = false;
    {
      const pcow::MutexLock lock(mutex_);
      const auto woken = [&]() PCOW_REQUIRES(mutex_) {
        return stopping_ || is_asked() || !deletions_waiting_.empty() ||
               (log_may_fill_ && !failing_);
      };
      while (!steps && !woken() && Clock::now() < std::min(due, look)) {
        wake_.wait_until(mutex_, std::min(due, look));
      }
      may_fill = std::exchange(log_may_fill_, false) && !failing_;
      if (stopping_) return false;
      asked = is_asked();
    }
    const bool wants_epoch = begin_deletions();
    if (steps) deletion_step();
    if (asked || wants_epoch || Clock::now() >= due) return true;
    if (!may_fill && Clock::now() < look) continue;
    const bool filling = log_is_filling();
    look = failing_ ? due : Clock::now() + look_pause_;
    if (!filling) continue;
    log_is_small_ = true;
    count([](EpochStatistics& now) { ++now.early_epochs; });
    return true;
  }
}

void EpochManager::move_all(std::vector<Flush>& from, std::vector<Flush>& to) {
  std::move(from.begin(), from.end(), std::back_inserter(to));
  from.clear();
}

void EpochManager::cover_flushes() {
  move_all(later_, covered_);
  const pcow::MutexLock lock(mutex_);
  move_all(waiting_, covered_);
}

void EpochManager::pause_before_retry() {
  const Clock::time_point end = Clock::now() + kQuietRetryPause;
  const pcow::MutexLock lock(mutex_);
  while (!stopping_ && Clock::now() < end) wake_.wait_until(mutex_, end);
}

void EpochManager::log_may_fill() {
  {
    const pcow::MutexLock lock(mutex_);
    log_may_fill_ = true;
  }
  wake_.notify_all();
}

void EpochManager::tell_brake(uint64_t room_pages, uint64_t dirty_pages, uint64_t faults) {
  brake_.looked({room_pages, dirty_pages + pinned_pages_, faults, pages_});
}

bool EpochManager::log_is_filling() {
  const Clock::time_point start = Clock::now();
  const uint64_t faults = kernel::page_faults();
  uint64_t room = 0;
  const Result<uint64_t> dirty = region_.with([&](Region& region) {
    room = region.log_state().room_pages;
    return region.dirty_pages();
  });
  look_pause_ =
      std::max<std::chrono::nanoseconds>(kLookPauseMin, kLookCostShare * (Clock::now() - start));
  if (!dirty) return true;  // the epoch will say why
  tell_brake(room, *dirty, faults);
  return brake_.is_filling();
}

Result<bool> EpochManager::make_epoch() {
  if (sealed_) PCOW_TRY(commit());
  EpochCost cost;
  PCOW_TRY(prepare_moves());
  between_epochs_ = false;
  PCOW_TRY_ASSIGN(const bool changed, precopy(cost));
  if (!changed && !epoch_wanted()) {
    // What is stored from now on is in the next epoch anyway: no need to stop the guest.
    between_epochs_ = true;
    interval_.update(cost);
    return true;
  }
  bool quiet = be_held();
  if (!quiet) {
    PCOW_TRY_ASSIGN(quiet, make_barrier());
  }
  cost.pause = pause_;
  cost.armed_pages += residue_;
  if (!quiet) {
    pause_before_retry();
    return false;
  }
  interval_.update(cost);
  if (rounds_were_useless()) epochs_without_ = kEpochsWithout;
  PCOW_TRY(commit());
  PCOW_TRY(checkpoint());
  return grow_log();
}

// For a guest that changes more than the log has room for in the time between two epochs.
Result<bool> EpochManager::grow_log() {
  if (!std::exchange(log_is_small_, false)) return true;
  uint64_t before = 0;
  const Result<uint64_t> size = region_.with([&](Region& region) {
    before = region.log_state().size;
    return region.grow_log();
  });
  // Without space for a larger one epochs go on as they are.
  if (!size && size.error().code != Code::kNoSpace) return size.error();
  if (size && *size != before) host_.log_grown(*size, false);
  return true;
}

Result<void> EpochManager::prepare_moves() {
  if (migration_ != nullptr) return migration_->prepare();
  PCOW_TRY(region_.with(
      [&](Region& region) { return region.prepare_demotion(options_.demoted_pages_max); }));
  return {};
}

bool EpochManager::rounds_were_useless() const {
  return first_found_ > 0 && residue_ > kUselessResidue && residue_ > first_found_ / 4 * 3;
}

Result<bool> EpochManager::precopy(EpochCost& cost) {
  first_found_ = 0;
  if (epochs_without_ > 0) {
    --epochs_without_;
    return true;
  }
  uint64_t before = ~uint64_t{0};
  for (int round = 0; round < kRoundsMax; ++round) {
    const uint64_t faults = kernel::page_faults();
    // A guest that stores faster than this is held, and what it stored is for the barrier.
    const auto stop = [&](uint64_t left_pages, uint64_t room_pages) {
      tell_brake(room_pages, left_pages, faults);
      return brake_.is_full();
    };
    PCOW_TRY_ASSIGN(const PrecopyReport report,
                    region_.with([&](Region& region) { return region.precopy(stop); }));
    cost.armed_pages += report.found_pages;
    if (round == 0) first_found_ = report.found_pages;
    count([&](EpochStatistics& now) {
      ++now.precopy_rounds;
      now.precopied_pages += report.found_pages;
      now.logged_bytes += report.logged_bytes;
    });
    if (report.idle) return false;
    log_is_small_ |= report.log_filling;
    if (report.log_filling || report.found_pages <= kSmallResidue) break;
    if (report.found_pages > before / 4 * 3) break;
    before = report.found_pages;
  }
  return true;
}

Result<BarrierReport> EpochManager::timed_barrier() {
  const Clock::time_point start = Clock::now();
  cover_flushes();  // they came before the barrier, so what they wait for is in the epoch
  cover_snapshots();
  Result<BarrierReport> report = region_.with([&](Region& region) -> Result<BarrierReport> {
    PCOW_TRY_ASSIGN(const BarrierReport made, region.barrier());
    pinned_pages_ = made.pinned_pages;
    tell_brake(room_of_next(region.log_state()), 0, kernel::page_faults());
    return made;
  });
  pause_ = Clock::now() - start;
  return report;
}

Result<bool> EpochManager::make_barrier() {
  Result<BarrierReport> report = pcow::make_error(Code::kInternal, "the barrier was left out");
  if (!brake_.while_quiet([&] { report = timed_barrier(); })) return false;
  if (!report) return std::move(report).error();
  count_barrier(*report);
  return true;
}

void EpochManager::count_barrier(const BarrierReport& report) {
  sealed_ = true;
  residue_ = report.residue_pages;
  if (deletion_ == Deletion::kAfterEpoch) deletion_ = Deletion::kSteps;
  if (migration_ != nullptr) migration_->barrier_made(report);
  count([&](EpochStatistics& now) {
    now.restarts += report.restarts;
    now.residue_pages += report.residue_pages;
    now.pinned_pages += report.pinned_pages;
    now.logged_bytes += report.logged_bytes;
    now.demoted_pages += report.demoted_pages;
    now.kept_pages += report.kept_pages;
    now.interval = interval_.current();
    now.pause_ns.record(static_cast<uint64_t>(pause_.count()));
  });
  if (report.demotion_error) host_.epoch_failed(*report.demotion_error, false);
  if (report.restarts == 0) return;
  host_.log_grown(region_.with([](Region& region) { return region.log_state().size; }), true);
}

Result<void> EpochManager::commit() {
  // Frozen before anything of the next epoch is logged: this thread does both.
  PCOW_TRY_ASSIGN(const pcow::Epoch epoch,
                  region_.with([](Region& region) { return region.commit_epoch(); }));
  sealed_ = false;
  between_epochs_ = true;
  freeze();
  count([](EpochStatistics& now) { ++now.epochs; });
  answer(std::exchange(covered_, {}), epoch);
  host_.epoch_made({epoch, residue_, pause_, interval_.current()});
  return {};
}

bool EpochManager::epoch_wanted() {
  const pcow::MutexLock lock(mutex_);
  return is_asked() || !later_.empty() || !covered_.empty();
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
  } while (!done && !epoch_wanted());
  return {};
}

void EpochManager::answer(const std::vector<Flush>& flushes, const Result<pcow::Epoch>& result) {
  for (const Flush& flush : flushes) flush.done(result);
}

}  // namespace tiering
