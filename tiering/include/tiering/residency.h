// SPDX-License-Identifier: BSD-3-Clause
//
// Which pages are where: what regions tell and policies decide on.
#pragma once

#include <pcow/units.h>
#include <bitset>
#include <compare>
#include <cstdint>
#include <vector>

namespace tiering {

using PageBits = std::bitset<pcow::kPagesPerChunk>;

struct PageRun {
  pcow::PageIndex first;
  uint64_t count = 0;

  pcow::PageIndex end() const { return first + count; }
  auto operator<=>(const PageRun&) const = default;
};

// The DRAM copies of a chunk.
struct ChunkResidency {
  pcow::ChunkIndex chunk;
  PageBits resident;
  PageBits dirty;     // of them those that the image has no copy of, at their place in the file
  PageBits pinned;    // of them those that may not be dropped now
  bool huge = false;  // they are one page of 2 MiB
  bool hole = false;  // nothing is behind their mapping: they leave DRAM nearly all at once
};

// Adds a page behind the others, to the last run if it goes on with that. Throws std::bad_alloc.
inline void add_page(std::vector<PageRun>& runs, pcow::PageIndex page) {
  if (!runs.empty() && runs.back().end() == page) {
    ++runs.back().count;
  } else {
    runs.push_back({page, 1});
  }
}

}  // namespace tiering
