// SPDX-License-Identifier: BSD-3-Clause
//
// Hands out segments and metadata slots (FORMAT.md, section 6), inside a transaction of the store.
//
// What it hands out is a hole: a segment is always a new one at the end of image space; a slot
// comes from a slot map and was never written since it was last free.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>

#include "pcow/engine/metadata_store.h"

namespace pcow {

class Allocator {
 public:
  Allocator(MetadataStore& store, Media& media) : store_(&store), media_(&media) {}

  // Image offset of a free slot, marked in use. Errors: kNoSpace (limits), kCorrupt, kIo.
  Result<uint64_t> take_slot();
  // A new segment for the chunk table at `owner`; the file is extended over it.
  Result<SegmentIndex> take_data_segment(uint64_t owner);

 private:
  Result<SegmentIndex> take_segment(format::SegmentKind kind, uint64_t owner);
  Result<uint64_t> take_slot_from(SegmentIndex segment, uint64_t map_offset);
  Result<format::SegmentEntry*> modify_entry(SegmentIndex segment);

  MetadataStore* store_;
  Media* media_;
};

}  // namespace pcow
