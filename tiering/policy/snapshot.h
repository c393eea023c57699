// SPDX-License-Identifier: BSD-3-Clause
//
// What a policy decides on: the records of the pages and where the pages are, at one moment.
#pragma once

#include <pcow/units.h>
#include <tiering/residency.h>
#include <cstdint>
#include <span>

#include "tiering/hotness/page_record.h"

namespace tiering {

struct ChunkView {
  // The records' words; null: nothing is known of the chunk.
  const uint32_t* words = nullptr;
  // Lower bound of idle() over the pages that are known.
  uint32_t least_idle = 0;
  ChunkResidency in_dram;

  PageRecord record(uint64_t page_in_chunk) const {
    return words == nullptr ? PageRecord() : PageRecord(words[page_in_chunk]);
  }
};

// Ascending by chunk. A chunk that is missing has no record and no page in DRAM. The views must
// outlive the snapshot's use.
using Snapshot = std::span<const ChunkView>;

}  // namespace tiering
