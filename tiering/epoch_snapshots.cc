// SPDX-License-Identifier: BSD-3-Clause
//
// What an EpochManager does beside epochs: snapshots, their deletion, and being held.
//
// A snapshot is of an epoch: it is asked for before a barrier, and made when that is committed,
// before anything of the next epoch is logged. Only the thread logs pages, and it freezes first.
//
// A deletion begins, and goes on, between epochs: a step takes the region's lock for about as long
// as a step of a checkpoint, so an epoch that is due waits for one of them at most. What waits for
// a barrier to map chunks from elsewhere goes on after the next one.
#include <utility>

#include "tiering/epoch_manager.h"

namespace tiering {

using pcow::Code;
using pcow::Error;
using pcow::Result;

namespace {

constexpr uint64_t kPagesPerStep = 256;

Error not_running() { return {Code::kInvalid, 0, "no epochs are being made"}; }

}  // namespace

void EpochManager::create_snapshot(std::string name, Done done) {
  {
    const pcow::MutexLock lock(mutex_);
    if (running_) {
      snapshots_waiting_.push_back({std::move(name), std::move(done)});
      done = nullptr;
    }
  }
  if (!done) return wake_.notify_all();
  done(tl::unexpected(not_running()));
}

void EpochManager::delete_snapshot(std::string name, Done done) {
  {
    const pcow::MutexLock lock(mutex_);
    if (running_) {
      deletions_waiting_.push_back({std::move(name), std::move(done)});
      done = nullptr;
    }
  }
  if (!done) return wake_.notify_all();
  done(tl::unexpected(not_running()));
}

std::optional<Error> EpochManager::deletion_error() {
  const pcow::MutexLock lock(mutex_);
  return deletion_error_;
}

void EpochManager::cover_snapshots() {
  const pcow::MutexLock lock(mutex_);
  for (Request& request : snapshots_waiting_) to_freeze_.push_back(std::move(request));
  snapshots_waiting_.clear();
}

void EpochManager::freeze() {
  for (const Request& request : std::exchange(to_freeze_, {})) {
    request.done(
        region_.with([&](Region& region) { return region.create_snapshot(request.name); }));
  }
}

bool EpochManager::begin_deletions() {
  std::vector<Request> requests;
  {
    const pcow::MutexLock lock(mutex_);
    if (deletions_waiting_.empty()) return false;
    if (!between_epochs_) return true;
    requests = std::exchange(deletions_waiting_, {});
  }
  for (const Request& request : requests) {
    const Result<void> begun =
        region_.with([&](Region& region) { return region.begin_deletion(request.name); });
    if (begun) deletion_ = Deletion::kSteps;
    request.done(begun);
  }
  return false;
}

void EpochManager::deletion_step() {
  const Result<pcow::DeletionReport> report =
      region_.with([](Region& region) { return region.continue_deletion(kPagesPerStep); });
  if (report && report->done) deletion_ = Deletion::kNone;
  if (!report || report->waits) deletion_ = Deletion::kAfterEpoch;
  if (!report && report.error().code == Code::kCorrupt) deletion_ = Deletion::kNone;
  const pcow::MutexLock lock(mutex_);
  deletion_error_.reset();
  if (!report) deletion_error_ = report.error();
}

void EpochManager::answer_requests(const Error& error) {
  std::vector<Request> requests;
  {
    const pcow::MutexLock lock(mutex_);
    requests = std::exchange(snapshots_waiting_, {});
    for (Request& request : deletions_waiting_) requests.push_back(std::move(request));
    deletions_waiting_.clear();
  }
  for (Request& request : to_freeze_) requests.push_back(std::move(request));
  to_freeze_.clear();
  for (const Request& request : requests) request.done(tl::unexpected(error));
}

void EpochManager::hold(Done held) {
  Error error = not_running();
  {
    const pcow::MutexLock lock(mutex_);
    if (running_ && !stopping_ && hold_ == Hold::kNone) {
      hold_ = Hold::kWanted;
      held_ = std::move(held);
      held = nullptr;
    } else if (hold_ != Hold::kNone) {
      error.message = "epochs are held already: another snapshot is being taken";
    }
  }
  if (!held) return wake_.notify_all();
  held(tl::unexpected(error));
}

bool EpochManager::be_held() {
  Done held;
  {
    const pcow::MutexLock lock(mutex_);
    if (hold_ != Hold::kWanted) return false;
    hold_ = Hold::kHeld;
    held = std::exchange(held_, nullptr);
  }
  // Who makes the barrier may need what the brake would occupy by holding the guest till then.
  brake_.set_waits(true);
  held({});
  std::optional<BarrierReport> report;
  {
    const pcow::MutexLock lock(mutex_);
    while (hold_ == Hold::kInBarrier || (hold_ == Hold::kHeld && !stopping_)) wake_.wait(mutex_);
    if (hold_ == Hold::kHeld) hold_ = Hold::kNone;  // else it may be wanted again
    report = std::exchange(held_barrier_, std::nullopt);
  }
  brake_.set_waits(failing_);
  if (report) count_barrier(*report);
  return report.has_value();
}

Result<void> EpochManager::barrier_held() {
  {
    const pcow::MutexLock lock(mutex_);
    if (hold_ != Hold::kHeld || held_barrier_) {
      return pcow::make_error(Code::kInvalid, "epochs are not held, or the barrier was made");
    }
    hold_ = Hold::kInBarrier;
  }
  // The thread stands still, so what is its own may be used here.
  Result<BarrierReport> report = timed_barrier();
  std::vector<Request> failed;
  if (!report) failed = std::exchange(to_freeze_, {});  // another moment would not do
  {
    const pcow::MutexLock lock(mutex_);
    hold_ = Hold::kHeld;
    if (report) held_barrier_ = *report;
  }
  wake_.notify_all();
  for (const Request& request : failed) request.done(tl::unexpected(report.error()));
  return report ? Result<void>() : Result<void>(tl::unexpected(report.error()));
}

void EpochManager::release() {
  {
    const pcow::MutexLock lock(mutex_);
    if (hold_ == Hold::kHeld) hold_ = Hold::kNone;
  }
  wake_.notify_all();
}

void EpochManager::end_hold(const Error& error) {
  Done held;
  {
    const pcow::MutexLock lock(mutex_);
    hold_ = Hold::kNone;
    held = std::exchange(held_, nullptr);
  }
  if (held) held(tl::unexpected(error));
}

}  // namespace tiering
