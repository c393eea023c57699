// SPDX-License-Identifier: BSD-3-Clause
//
// A region, and the lock of those who share it.
#pragma once

#include <tiering/region.h>

#include "pcow/base/mutex.h"

namespace tiering {

class GuardedRegion {
 public:
  explicit GuardedRegion(Region& region) : region_(region) {}

  // Runs fn(Region&) while nobody else does; the image behind it is guarded as well.
  template <typename Fn>
  auto with(const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    return fn(region_);
  }

 private:
  pcow::Mutex mutex_;
  Region& region_ PCOW_GUARDED_BY(mutex_);
};

}  // namespace tiering
