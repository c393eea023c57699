// SPDX-License-Identifier: BSD-3-Clause
//
// Finds the pages of a private mapping that differ, or may differ, from the image.
//
// Every page of a region is in one of these states, which only the kernel and a tracker know:
//
//   absent ──read──▶ clean (file page, zero page)          not reported
//     │                 │ write
//     └──write──────────┴──▶ dirty (private copy) ──collect()+rearm()──▶ armed (private copy)
//                              ▲                                             │ write
//                              └─────────────────────────────────────────────┘
//
// Reported as dirty is every private copy that was written since it was last armed, also one that
// the host swapped out. More may be reported (see may_report_clean()); never less.
#pragma once

#include <pcow/status.h>
#include <tiering/region.h>
#include <cstdint>
#include <functional>
#include <memory>

#include "tiering/kernel/advice.h"

namespace tiering {

using kernel::AddressRange;

struct PageState {
  bool dirty = false;     // a private copy that was written since it was armed
  bool resident = false;  // a private copy in DRAM, not swapped out
  bool huge = false;      // it is part of one that is mapped as 2 MiB
};

// What lies under the private mappings that are tracked.
enum class Backing : uint8_t {
  kPageCache,  // files whose pages are in the page cache, tmpfs included
  kDax,        // a DAX medium, perhaps among other files
};

class DirtyTracker {
 public:
  using DirtySink = std::function<void(AddressRange)>;
  using StateSink = std::function<void(AddressRange, PageState)>;

  // kAuto takes the best tracker that this kernel has, found by trying it.
  // Errors: kUnsupported (naming what is missing), kPermission, kNoMemory.
  static pcow::Result<std::unique_ptr<DirtyTracker>> create(TrackerKind kind, Backing backing);

  virtual ~DirtyTracker() = default;
  DirtyTracker(const DirtyTracker&) = delete;
  DirtyTracker& operator=(const DirtyTracker&) = delete;

  virtual TrackerKind kind() const = 0;
  // Pages that were only read may be reported as dirty or resident: compare before writing.
  virtual bool may_report_clean() const = 0;

  // Whether collect() may run while others store: each store is reported then or the next time.
  virtual bool collects_while_written() const = 0;

  // Whether adopt() works here.
  virtual bool adopts_pages() const = 0;

  // Starts tracking a range; to be called again for a part that was mapped anew. Pages present
  // there count as dirty, or not at all. Errors: kNoMemory, kBusy, kInvalid.
  virtual pcow::Result<void> attach(AddressRange range) = 0;

  // Reports the dirty pages of a range to `sink` (which must not throw) as runs, ascending, and
  // arms them, at once or with the next rearm(): whoever collects must remember what was reported
  // until it is safe. On failure an arbitrary part was reported. Errors: kPermission (the range is
  // not tracked any more), kIo, kNoMemory.
  virtual pcow::Result<void> collect(AddressRange range, const DirtySink& sink) = 0;
  // Completes the arming of everything collected. REQUIRES: nobody stored since collect().
  // Errors: kIo, kPermission.
  virtual pcow::Result<void> rearm() = 0;

  // Reports what collect() would find; changes nothing. Errors: kIo, kNoMemory.
  virtual pcow::Result<void> find_dirty(AddressRange range, const DirtySink& sink) const;

  // Reports the runs of pages that are dirty or resident, or both; changes nothing. Where pages are
  // mapped this takes many times as long as find_dirty().
  // Errors: kIo, kNoMemory.
  virtual pcow::Result<void> inspect(AddressRange range, const StateSink& sink) const = 0;

  // To be called before private copies are dropped: makes them dirty where dropping armed ones
  // would leave marks that do harm (kDax: the next access faults for ever, seen on Linux 6.12).
  // REQUIRES: private copies only. Errors: kNoMemory.
  virtual pcow::Result<void> disarm(AddressRange range) = 0;

  // Moves the pages of anonymous memory at `from`, as much as there is of `range`, into that, and
  // arms them: they are clean. REQUIRES: adopts_pages(); attach(range), in which there is no page;
  // nobody stores. On failure some of them may have been moved; those are dirty. Errors:
  // kUnsupported, kBusy, kNoMemory, kInvalid, kIo.
  virtual pcow::Result<void> adopt(AddressRange range, std::byte* from) = 0;

 protected:
  DirtyTracker() = default;
};

// The two implementations, for create() and for tests.
pcow::Result<std::unique_ptr<DirtyTracker>> make_pagemap_tracker(Backing backing);
pcow::Result<std::unique_ptr<DirtyTracker>> make_soft_dirty_tracker();

}  // namespace tiering
