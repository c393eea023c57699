// SPDX-License-Identifier: BSD-3-Clause
//
// Which chunks are watched for reads: looking at all of them would cost the guest a fault for each
// page that it reads. Chunks in which reads were seen are watched again, a few times in a row, for
// a page is promoted only when it was seen more than once. The others take turns.
#pragma once

#include <pcow/units.h>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace tiering {

class ReadWatch {
 public:
  // In a row, for the same chunk.
  static constexpr uint32_t kLooksMax = 8;

  // Up to `count` chunks from `from` on, ascending, that may be watched; it does not go round.
  using Source =
      std::function<std::vector<pcow::ChunkIndex>(pcow::ChunkIndex from, uint64_t count)>;

  // Chunks to watch next, up to `count`, none twice, ascending. Three in four at most are watched
  // again. Throws std::bad_alloc.
  std::vector<pcow::ChunkIndex> choose(uint64_t count, const Source& source);

  // Tells in how many pages of a chunk that was chosen reads were seen. Throws std::bad_alloc.
  void saw(pcow::ChunkIndex chunk, uint64_t pages);

 private:
  std::map<uint64_t, uint32_t> followed_;  // how often in a row
  pcow::ChunkIndex hand_;                  // whose turn it is
};

}  // namespace tiering
