// SPDX-License-Identifier: BSD-3-Clause
//
// Which pages of a region are accessed, and how often: one record (page_record.h) a page, four
// bytes, kept for chunks that somebody accessed. A chunk whose pages have all been forgotten costs
// nothing again. Beside the records there are ten bytes for every chunk of the region.
//
// An epoch of tracking:
//   note_written(), note_read(), note_moved(), watch_reads(), any number, from any thread
//   forget()
//   end_of_epoch()                                            accesses become heat, heat decays
//   freeze()                                                  the state for a policy or a heat map
//
// Thread-safe: every method may be called from any thread at any time. The notes run beside each
// other; end_of_epoch() and a Frozen exclude them and each other, so the notes of one thread wait
// while another thread holds a Frozen. A thread that holds one must not call anything but its
// methods.
//
//   guarded by   lock_ shared or exclusive   slots_ (which records there are), words (atomically)
//                lock_ exclusive             freeing records, plain access to words, least_idle_
#pragma once

#include <pcow/units.h>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <vector>

#include "tiering/hotness/page_record.h"
#include "tiering/hotness/parallel.h"
#include "tiering/policy/snapshot.h"

namespace tiering {

// Sums of chances of an access, of which one is PageRecord::kHeatMax.
struct ExpectedAccesses {
  uint64_t all = 0;
  uint64_t unseen = 0;  // of pages that were said to be unseen
};

class HeatTracker {
 public:
  class Frozen;

  // Of a region with so many chunks. `parallel` is how all of them are gone through. Throws
  // std::bad_alloc.
  HeatTracker(uint64_t chunks, Parallel parallel);
  ~HeatTracker();
  HeatTracker(const HeatTracker&) = delete;
  HeatTracker& operator=(const HeatTracker&) = delete;

  uint64_t chunks() const { return slots_.size(); }

  // Pages that were written or read since the last end_of_epoch(); a repetition changes nothing.
  // REQUIRES: inside the region. Throws std::bad_alloc: then only a first part is noted.
  void note_written(pcow::PageIndex first, uint64_t count);
  void note_read(pcow::PageIndex first, uint64_t count);
  // Pages that changed between DRAM and the image: they stay where they are for so many epochs.
  // REQUIRES: inside the region, epochs <= PageRecord::kCoolDownMax. Throws std::bad_alloc.
  void note_moved(pcow::PageIndex first, uint64_t count, uint32_t cool_down_epochs);
  // Pages that hold nothing any more: nothing is known of them. REQUIRES: inside the region.
  void forget(pcow::PageIndex first, uint64_t count);
  // Any read of the chunk in this epoch is going to be noted, so a page without one was not read.
  // REQUIRES: inside the region.
  void watch_reads(pcow::ChunkIndex chunk);

  // Accesses become heat, everything else ages. Where reads were not watched, pages known for their
  // reads cool a little in every kUnwatchedAging'th epoch only: nobody knows, and doubt should not
  // last. The same goes for the pages in DRAM of `unseen`, ascending: whoever sees reads of the
  // image's own pages alone must not take their absence for a page that is in DRAM.
  // Returns what the heat lets expect of the next epoch.
  ExpectedAccesses end_of_epoch(std::span<const ChunkResidency> unseen = {});
  static constexpr uint64_t kUnwatchedAging = 8;

  // Waits for calls that run, and keeps others out until the Frozen is destroyed.
  Frozen freeze() const;

  // Bytes in use.
  uint64_t memory_bytes() const;

 private:
  using Records = std::array<uint32_t, pcow::kPagesPerChunk>;

  void set_bits(pcow::PageIndex first, uint64_t count, uint32_t bits);
  Records& records_of(uint64_t chunk);  // REQUIRES: lock_ shared
  ExpectedAccesses age_chunk(uint64_t chunk, bool doubt, const PageBits* unseen);

  const Parallel parallel_;
  const Aging aging_;
  mutable std::shared_mutex lock_;
  std::vector<std::atomic<Records*>> slots_;
  std::vector<std::atomic<uint8_t>> watched_;
  std::vector<uint8_t> least_idle_;
  std::atomic<uint64_t> tracked_ = 0;  // chunks with records
  uint64_t epochs_ = 0;
};

// The tracker at one moment; the const methods may run in several threads.
class HeatTracker::Frozen {
 public:
  // What a policy needs, ascending: the chunks with records and those in `residency`, which is
  // ascending too. The views are valid as long as this object. Throws std::bad_alloc.
  std::vector<ChunkView> snapshot(std::span<const ChunkResidency> residency) const;

  uint64_t chunks() const { return tracker_->chunks(); }
  uint64_t epochs() const { return tracker_->epochs_; }
  Parallel parallel() const { return tracker_->parallel_; }
  // Words of the chunk's records, null if nothing is known.
  const uint32_t* words(pcow::ChunkIndex chunk) const;

 private:
  friend class HeatTracker;
  explicit Frozen(const HeatTracker& tracker) : tracker_(&tracker), lock_(tracker.lock_) {}

  const HeatTracker* tracker_;
  std::unique_lock<std::shared_mutex> lock_;
};

}  // namespace tiering
