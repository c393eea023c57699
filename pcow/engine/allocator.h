// SPDX-License-Identifier: BSD-3-Clause
//
// Hands out segments and metadata slots (FORMAT.md, section 6), inside a transaction of the store,
// and takes them back.
//
// Invariants
//  1. What it hands out is a hole: a segment is free or a new one at the end of image space; a slot
//     comes from a slot map. Both become free only by way of quarantine:
//
//       in use --quarantine()--> quarantined --(durable, log emptied, emptied, durable)--> free()
//
//     so that nothing durable refers to them, and nothing in the log stores to them, when they are
//     emptied, and they are empty for certain before they can be had.
//  2. A chunk table goes into quarantine with its segment, whose entry names the table's slot.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <vector>

#include "pcow/engine/metadata_store.h"

namespace pcow {

class Allocator {
 public:
  Allocator(MetadataStore& store, Media& media) : store_(&store), media_(&media) {}

  // Image offset of a free slot, marked in use. Errors: kNoSpace (limits), kCorrupt, kIo.
  Result<uint64_t> take_slot();
  // A segment for the chunk table at `owner`; the file is extended over it.
  Result<SegmentIndex> take_data_segment(uint64_t owner);
  // The first of kLogSegments in a row, for the log, which nothing else uses: such as an earlier
  // call took, or new ones. Errors: as above.
  Result<SegmentIndex> take_log_segments();
  // The segment is now that of another chunk table.
  Result<void> pass_on(SegmentIndex segment, uint64_t owner);

  // The segment is given up, together with the slot of a chunk table that nothing refers to.
  Result<void> quarantine(SegmentIndex segment, uint64_t table, Epoch epoch);
  Result<format::SegmentEntry> entry(SegmentIndex segment) const;
  struct Quarantined {
    SegmentIndex segment;
    uint64_t table;  // slot, or 0
  };
  // At most `count` of them, outside a transaction. Errors: kCorrupt, kIo.
  Result<std::vector<Quarantined>> quarantined(size_t count) const;
  // REQUIRES: invariant 1.
  Result<void> free(const Quarantined& item);
  // Whether there can be a slot in use, if the log is not there. Errors: kCorrupt, kIo.
  Result<bool> can_be_slot(uint64_t offset) const;
  // A slot whose pages are all zero.
  Result<void> free_slot(uint64_t slot);
  // A transaction was dropped: what it took is free again.
  void forget() { free_hint_ = SegmentIndex(1); }

 private:
  Result<SegmentIndex> find_free_segment();
  Result<SegmentIndex> take_segment(format::SegmentKind kind, uint64_t owner);
  Result<SegmentIndex> append_segment(format::SegmentKind kind, uint64_t owner);
  Result<void> set_entry(SegmentIndex segment, format::SegmentKind kind, uint64_t owner);
  Result<uint64_t> take_slot_from(SegmentIndex segment, uint64_t map_offset);
  Result<format::SegmentEntry*> modify_entry(SegmentIndex segment);

  MetadataStore* store_;
  Media* media_;
  SegmentIndex free_hint_{1};  // no segment before it is free
};

}  // namespace pcow
