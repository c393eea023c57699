// SPDX-License-Identifier: BSD-3-Clause
//
// A mutex that clang's thread-safety analysis knows (-Wthread-safety): fields say which lock guards
// them, and an access without it does not compile.
#pragma once

#include <mutex>

#if defined(__clang__)
#define PCOW_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define PCOW_THREAD_ATTRIBUTE(x)
#endif
#define PCOW_GUARDED_BY(mutex) PCOW_THREAD_ATTRIBUTE(guarded_by(mutex))
#define PCOW_REQUIRES(mutex) PCOW_THREAD_ATTRIBUTE(requires_capability(mutex))
#define PCOW_EXCLUDES(mutex) PCOW_THREAD_ATTRIBUTE(locks_excluded(mutex))

namespace pcow {

class PCOW_THREAD_ATTRIBUTE(capability("mutex")) Mutex {
 public:
  void lock() PCOW_THREAD_ATTRIBUTE(acquire_capability()) { mutex_.lock(); }
  void unlock() PCOW_THREAD_ATTRIBUTE(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

// May be unlocked in between, around what must not be done under the lock.
class PCOW_THREAD_ATTRIBUTE(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) PCOW_THREAD_ATTRIBUTE(acquire_capability(mutex))
      : mutex_(&mutex) {
    mutex_->lock();
  }
  ~MutexLock() PCOW_THREAD_ATTRIBUTE(release_capability()) {
    if (held_) mutex_->unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void lock() PCOW_THREAD_ATTRIBUTE(acquire_capability()) {
    mutex_->lock();
    held_ = true;
  }
  void unlock() PCOW_THREAD_ATTRIBUTE(release_capability()) {
    held_ = false;
    mutex_->unlock();
  }

 private:
  Mutex* mutex_;
  bool held_ = true;
};

}  // namespace pcow
