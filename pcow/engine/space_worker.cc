// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/space_worker.h"

#include <pthread.h>
#include <signal.h>

#include <exception>
#include <utility>

namespace pcow {

SpaceWorker::~SpaceWorker() {
  stop();
  {
    const MutexLock lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool SpaceWorker::start_thread() {
  if (thread_.joinable()) return true;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { run(); });
    pthread_setname_np(thread_.native_handle(), "pcow-space");
  } catch (const std::exception&) {
    // No thread: everything works without it.
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread_.joinable();
}

void SpaceWorker::start(std::vector<Job> jobs) {
  if (jobs.empty()) return;
  const bool there = start_thread();
  {
    const MutexLock lock(mutex_);
    if (!there) failed_ = true;
    if (failed_) return;
    jobs_ = std::move(jobs);
    done_ = 0;
    stopping_ = false;
  }
  changed_.notify_all();
}

std::vector<SpaceWorker::Job> SpaceWorker::stop() {
  const MutexLock lock(mutex_);
  stopping_ = true;
  while (busy_) changed_.wait(mutex_);
  jobs_.resize(std::exchange(done_, 0));
  return std::exchange(jobs_, {});
}

SpaceWorker::Progress SpaceWorker::progress() const {
  const MutexLock lock(mutex_);
  Progress progress;
  for (size_t i = 0; i < done_; ++i) {
    (jobs_[i].release ? progress.released_bytes : progress.filled_bytes) += jobs_[i].length;
  }
  progress.busy = !stopping_ && !failed_ && done_ < jobs_.size();
  return progress;
}

bool SpaceWorker::failed() const {
  const MutexLock lock(mutex_);
  return failed_;
}

void SpaceWorker::run() {
  MutexLock lock(mutex_);
  while (!quit_) {
    if (stopping_ || failed_ || done_ == jobs_.size()) {
      changed_.wait(mutex_);
      continue;
    }
    const Job job = jobs_[done_];
    busy_ = true;
    lock.unlock();
    bool ok = false;
    if (job.release) {
      ok = space_.release(job.offset, job.length).has_value();
    } else {
      ok = space_.fill(job.offset, job.length).has_value();
      // Nobody would know of the part that is there; if that fails too, `pcow-img check` does.
      if (!ok) (void)space_.release(job.offset, job.length);
    }
    lock.lock();
    busy_ = false;
    ok ? void(++done_) : void(failed_ = true);
    changed_.notify_all();
  }
}

}  // namespace pcow
