// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/guest_brake.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

#include "tiering/kernel/page_faults.h"
#include "tiering/library_thread.h"

namespace tiering {

namespace {

using kernel::page_faults;

constexpr std::chrono::milliseconds kSlice{100};

// Between two slices a guest that runs faults more often than this, its host less.
constexpr uint64_t kFaultsOfAGuest = 64;
constexpr std::chrono::nanoseconds kRestPauseMin = std::chrono::microseconds(100);
constexpr std::chrono::nanoseconds kRestPauseMax = std::chrono::milliseconds(4);

// After the host could not make it quiet.
constexpr std::chrono::milliseconds kRetryPause{1};

// A guest that has all CPUs leaves none to this thread in time, so it goes first where the process
// may say so. It hardly takes any time itself.
void go_first() {
  const sched_param lowest{.sched_priority = 1};
  if (pthread_setschedparam(pthread_self(), SCHED_RR, &lowest) == 0) return;
  // What is not permitted is done without.
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), -20);
}

}  // namespace

pcow::Result<void> GuestBrake::start() {
  if (page_faults() == std::numeric_limits<uint64_t>::max()) {
    return pcow::make_error(pcow::Code::kPermission,
                            "getrusage() is not allowed here: epochs need to know how many page "
                            "faults the process has had");
  }
  {
    const pcow::MutexLock lock(mutex_);
    stopping_ = false;
    watching_ = false;
  }
  PCOW_TRY_ASSIGN(thread_, start_thread("tiering-brake", [this] { run(); }));
  return {};
}

void GuestBrake::stop() {
  {
    const pcow::MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void GuestBrake::looked(const LogLook& look) {
  {
    const pcow::MutexLock lock(mutex_);
    watch_.look(look);
    watching_ = true;
    told_ = false;
  }
  changed_.notify_all();
}

bool GuestBrake::is_filling() {
  const pcow::MutexLock lock(mutex_);
  return watching_ && watch_.ends_epoch(page_faults());
}

bool GuestBrake::is_full() {
  const pcow::MutexLock lock(mutex_);
  return watching_ && watch_.stops_guest(page_faults());
}

void GuestBrake::set_waits(bool waits) {
  {
    const pcow::MutexLock lock(mutex_);
    if (waits_ == waits) return;
    waits_ = waits;
    slice_faults_ = 0;
  }
  changed_.notify_all();
}

BrakeStatistics GuestBrake::statistics() {
  const pcow::MutexLock lock(mutex_);
  return statistics_;
}

bool GuestBrake::while_quiet(const std::function<void()>& body) {
  const pcow::MutexLock lock(mutex_);
  job_ = &body;
  job_done_ = false;
  changed_.notify_all();
  while (job_ != nullptr) changed_.wait(mutex_);
  return job_done_;
}

void GuestBrake::end_job(bool done) {
  job_ = nullptr;
  job_done_ = done;
  changed_.notify_all();
}

bool GuestBrake::must_hold(uint64_t faults) const {
  return !stopping_ && watching_ && watch_.stops_guest(faults);
}

// A barrier is made in between, so that no guest runs from here to there.
void GuestBrake::hold() {
  const Clock::time_point begin = Clock::now();
  bool held = false;
  pcow::MutexLock lock(mutex_);
  for (;;) {
    if (job_ != nullptr) {
      const std::function<void()>& job = *job_;
      lock.unlock();
      job();
      lock.lock();
      end_job(true);
    }
    if (!must_hold(page_faults()) || (waits_ && Clock::now() >= begin + kSlice)) break;
    held = true;
    changed_.wait_until(mutex_, Clock::now() + kSlice);
  }
  if (!held) return;
  ++statistics_.holds;
  statistics_.held += Clock::now() - begin;
}

void GuestBrake::run() {
  go_first();
  pcow::MutexLock lock(mutex_);
  std::chrono::nanoseconds pause{0};
  std::chrono::nanoseconds rest_pause = kRestPauseMin;
  while (!stopping_) {
    if (job_ == nullptr) changed_.wait_until(mutex_, Clock::now() + pause);
    const uint64_t faults = page_faults();
    // Who changes what it depends on wakes this thread.
    pause = watching_ ? watch_.pause(faults) : std::chrono::seconds(1);
    if (watching_ && !told_ && watch_.ends_epoch(faults)) {
      told_ = true;
      lock.unlock();
      filling_();
      lock.lock();
    }
    if (job_ == nullptr) {
      if (!must_hold(faults)) continue;
      if (waits_ && faults - slice_faults_ <= kFaultsOfAGuest) {
        pause = rest_pause = std::min(2 * rest_pause, kRestPauseMax);
        continue;
      }
    }
    const std::chrono::nanoseconds held_before = statistics_.held;
    lock.unlock();
    const bool quiet = host_.while_quiet([this] { hold(); });
    const uint64_t after = page_faults();
    lock.lock();
    if (const auto held = statistics_.held - held_before; held.count() > 0) {
      lock.unlock();
      host_.guest_held(held);
      lock.lock();
    }
    if (!quiet && job_ != nullptr) end_job(false);
    slice_faults_ = after;
    rest_pause = kRestPauseMin;
    pause = quiet ? kRestPauseMin : std::chrono::nanoseconds(kRetryPause);
  }
  if (job_ != nullptr) end_job(false);
}

}  // namespace tiering
