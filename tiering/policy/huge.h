// SPDX-License-Identifier: BSD-3-Clause
//
// Which chunks should be huge: one 2 MiB page of DRAM each (Moves::huge), and how they go back.
// Pure functions, as the policies are.
//
// It pays for chunks that are read. A store makes the kernel map 512 pages again, so that it can
// tell which one was stored to, and the copy of 2 MiB was for nothing. And what is read of pages in
// DRAM nobody sees: that the policy keeps nearly all of a chunk there has to be enough.
#pragma once

#include <pcow/units.h>
#include <span>
#include <vector>

#include "tiering/policy/plan.h"
#include "tiering/policy/snapshot.h"

namespace tiering {

struct HugeLimits {
  uint64_t room_pages = 0;  // that all of them together may bring to DRAM
  size_t chunks_max = 0;
  uint32_t idle_min = 0;  // epochs since the last store to any page of the chunk
};

// Of a chunk's pages so many are in DRAM already: the rest comes there with them.
inline constexpr uint64_t kHugeResidentMin = pcow::kPagesPerChunk / 8 * 7;

// Ascending: those of most heat, and of equal ones the first. None of them has a page that is
// pinned, or that the plan demotes. Throws std::bad_alloc.
std::vector<pcow::ChunkIndex> choose_huge(Snapshot snapshot, const Plan& plan,
                                          const HugeLimits& limits);

// A chunk that was huge leaves DRAM as a whole, or nearly, so what a policy chose of it alone would
// stay.
struct WholeChunks {
  std::vector<PageRun> demotions;  // ascending
  std::vector<PageRun> returning;  // of them what the policy did not choose: to be promoted again
};

// So many pages of a hole are worth taking all of it.
inline constexpr uint64_t kWholeChunkMin = pcow::kPagesPerChunk / 8;

// What was chosen, and of holes (ChunkResidency::hole) of which enough was, all else that may go.
// Both arguments are ascending. Throws std::bad_alloc.
WholeChunks with_whole_chunks(std::span<const PageRun> chosen,
                              std::span<const ChunkResidency> copies);

}  // namespace tiering
