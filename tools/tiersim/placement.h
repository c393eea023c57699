// SPDX-License-Identifier: BSD-3-Clause
//
// Where the pages are: the model of contestant.h, without the decision what to move.
#pragma once

#include <vector>

#include "tiering/policy/snapshot.h"
#include "tools/tiersim/contestant.h"

namespace tiersim {

class Placement {
 public:
  Placement(uint64_t pages, uint64_t limit_pages);

  enum class Served { kDram, kImage, kFaulted, kThrottled };

  // Serves the accesses of one page in an epoch, and counts them.
  Served serve(const PageUse& use, Score& score);
  // Moves a page at the end of an epoch. REQUIRES: it is on the other side.
  void promote(uint64_t page, Score& score);
  void demote(uint64_t page, Score& score);

  bool in_dram(uint64_t page) const;
  uint64_t resident() const { return resident_; }
  // Of all chunks, ascending.
  const std::vector<tiering::ChunkResidency>& chunks() const { return chunks_; }

 private:
  tiering::ChunkResidency& chunk(uint64_t page) { return chunks_[page / pcow::kPagesPerChunk]; }
  void enter(uint64_t page, Score& score);
  void store(const PageUse& use);

  uint64_t limit_;
  uint64_t resident_ = 0;
  std::vector<tiering::ChunkResidency> chunks_;
  std::vector<uint64_t> changed_lines_;  // of each page: in DRAM, not in the image
  std::vector<bool> stored_in_image_;    // throttled stores may still be in the cache
};

}  // namespace tiersim
