// SPDX-License-Identifier: BSD-3-Clause
//
// Which chunks have copies in DRAM, as the page table said when it was last asked. To ask takes
// 25 ns a page; so who changes copies, or finds that a guest did, says which chunks it was, and
// only these are asked for again. What the kernel does by itself (it swaps pages out and in) is
// found as all chunks take turns.
#pragma once

#include <pcow/status.h>
#include <tiering/residency.h>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "tiering/chunk_map.h"

namespace tiering {

class ResidencyCache {
 public:
  // Of all chunks, so many calls of refresh() bring each at least one turn.
  static constexpr uint64_t kTurns = 64;

  // Of a region with so many chunks, of which nothing is known. Throws std::bad_alloc.
  explicit ResidencyCache(uint64_t chunks) : stale_(chunks, true) {}

  // The copies of these chunks may have changed. REQUIRES: inside the region.
  void invalidate(ChunkRun run);
  void invalidate_all() { stale_.assign(stale_.size(), true); }

  // Adds the chunks of a run that have copies behind the others, ascending.
  using Look = std::function<pcow::Result<void>(ChunkRun run, std::vector<ChunkResidency>& found)>;

  // The chunks that have copies, ascending, looked up where that is due; valid until the next call.
  // Errors: those of `look`, after which what was stale is so still. Throws std::bad_alloc.
  pcow::Result<std::span<const ChunkResidency>> refresh(const Look& look);

 private:
  std::vector<bool> stale_;  // by chunk
  std::vector<ChunkResidency> known_;
  uint64_t turn_ = 0;  // the next chunk
};

}  // namespace tiering
