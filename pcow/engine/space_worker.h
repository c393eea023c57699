// SPDX-License-Identifier: BSD-3-Clause
//
// The thread that makes space ahead of need, between the calls of an image's owner.
//
//   stopped --start--> running, job after job --stop--> stopped      a failing job ends the running
//
// Invariants
//  1. Between stop() and start() the thread does not touch the file: stop() waits for the job that
//     is under way, which is one system call, and no other job of the list is ever done.
//  2. No system call is made under the lock.
//
// One owner calls start() and stop(). The thread is started with the first job, and has all signals
// blocked. It does not survive fork(2), like the image.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#include "pcow/base/mutex.h"
#include "pcow/media/direct_space.h"

namespace pcow {

class SpaceWorker {
 public:
  struct Job {
    uint64_t offset;
    uint64_t length;
    bool release;  // otherwise filled
  };
  // What is done of the jobs so far.
  struct Progress {
    uint64_t filled_bytes = 0;
    uint64_t released_bytes = 0;
    bool busy = false;
  };

  explicit SpaceWorker(DirectSpace space) : space_(std::move(space)) {}
  ~SpaceWorker();
  SpaceWorker(const SpaceWorker&) = delete;
  SpaceWorker& operator=(const SpaceWorker&) = delete;

  // REQUIRES: stopped.
  void start(std::vector<Job> jobs) PCOW_EXCLUDES(mutex_);
  // Returns the jobs that were done.
  std::vector<Job> stop() PCOW_EXCLUDES(mutex_);
  Progress progress() const PCOW_EXCLUDES(mutex_);
  // There is no space, no thread, or the medium failed: it does nothing any more.
  bool failed() const PCOW_EXCLUDES(mutex_);

 private:
  void run() PCOW_EXCLUDES(mutex_);
  bool start_thread();

  const DirectSpace space_;
  std::thread thread_;  // the owner's
  mutable Mutex mutex_;
  std::condition_variable_any changed_;
  std::vector<Job> jobs_ PCOW_GUARDED_BY(mutex_);
  size_t done_ PCOW_GUARDED_BY(mutex_) = 0;  // jobs in front are done
  bool stopping_ PCOW_GUARDED_BY(mutex_) = true;
  bool busy_ PCOW_GUARDED_BY(mutex_) = false;  // job `done_` is under way
  bool failed_ PCOW_GUARDED_BY(mutex_) = false;
  bool quit_ PCOW_GUARDED_BY(mutex_) = false;
};

}  // namespace pcow
