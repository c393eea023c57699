// SPDX-License-Identifier: BSD-3-Clause
//
// A mutex that clang's thread-safety analysis understands (std::mutex of libstdc++ has no
// annotations). With other compilers the annotations say the same to people.
#pragma once

#include <mutex>

#if defined(__clang__)
#define TIERING_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define TIERING_THREAD_ANNOTATION(x)
#endif

#define TIERING_GUARDED_BY(x) TIERING_THREAD_ANNOTATION(guarded_by(x))
#define TIERING_REQUIRES(x) TIERING_THREAD_ANNOTATION(requires_capability(x))
#define TIERING_EXCLUDES(x) TIERING_THREAD_ANNOTATION(locks_excluded(x))

namespace tiering {

class TIERING_THREAD_ANNOTATION(capability("mutex")) Mutex {
 public:
  void lock() TIERING_THREAD_ANNOTATION(acquire_capability()) { mutex_.lock(); }
  void unlock() TIERING_THREAD_ANNOTATION(release_capability()) { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

class TIERING_THREAD_ANNOTATION(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) TIERING_THREAD_ANNOTATION(acquire_capability(mutex))
      : mutex_(mutex) {
    mutex_.lock();
  }
  ~MutexLock() TIERING_THREAD_ANNOTATION(release_capability()) { mutex_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace tiering
