// SPDX-License-Identifier: BSD-3-Clause
//
// Pages that somebody may store to behind the page table: the kernel for O_DIRECT or io_uring, a
// device. Such a store marks no page dirty, and goes to the page that was there when it was pinned.
//
//   pin ──▶ active ──unpin──▶ released ──take──▶ gone
//
// Invariant: a page that was pinned at any time is here until it was taken after its last unpin. So
// whoever copies pages after taking them misses no store: one that came before the unpin is in the
// copy, and a later pin brings the page back.
//
// Thread-safe. A leaf in the lock order but for what runs in while_held().
#pragma once

#include <tiering/residency.h>
#include <cstdint>
#include <initializer_list>
#include <map>

#include "pcow/base/mutex.h"
#include "tiering/page_set.h"

namespace tiering {

class PinTable {
 public:
  // Throws std::bad_alloc: nothing is pinned.
  void pin(PageRun run) PCOW_EXCLUDES(mutex_);
  // Takes back a pin that starts there and is at least as long, the shortest of these: who gave up
  // a part of what was pinned may not know its length any more. False if there is none. Does not
  // fail otherwise.
  bool unpin(PageRun run) PCOW_EXCLUDES(mutex_);

  enum class Take {
    kReleased,  // what is active stays, and is not given
    kAll,       // what is active is given, and stays
  };
  // Adds pages to all of these sets; returns how many. Throws std::bad_alloc: nothing was taken.
  uint64_t take(Take what, std::initializer_list<PageSet*> sets) PCOW_EXCLUDES(mutex_);
  bool empty() PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    return pages_.empty();
  }

  // Returns fn(pages), where `pages` are all that are here; pin() and unpin() wait meanwhile.
  // Whoever pins gets at the page afterwards, so what `fn` drops nobody has got at.
  template <typename Fn>
  auto while_held(const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    return fn(static_cast<const PageSet&>(pages_));
  }

  // The same where what counts is who may store from now on: of `run`, the pages that are active.
  // Throws std::bad_alloc before it calls fn.
  template <typename Fn>
  auto while_held(PageRun run, const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    return fn(static_cast<const PageSet&>(active_in(run)));
  }

 private:
  PageSet active_in(PageRun run) const PCOW_REQUIRES(mutex_);

  pcow::Mutex mutex_;
  std::map<PageRun, uint64_t> active_ PCOW_GUARDED_BY(mutex_);  // with how often
  PageSet pages_ PCOW_GUARDED_BY(mutex_);                       // active or released
};

}  // namespace tiering
