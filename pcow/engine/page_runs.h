// SPDX-License-Identifier: BSD-3-Clause
//
// Splitting the pages of a write into what belongs together.
#pragma once

#include <pcow/image.h>
#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace pcow {

// How many of the pages, from the first on, lie in its chunk.
inline size_t same_chunk(std::span<const PageWrite> pages) {
  const auto end = std::find_if(pages.begin(), pages.end(), [&](const PageWrite& write) {
    return chunk_of(write.page) != chunk_of(pages.front().page);
  });
  return static_cast<size_t>(end - pages.begin());
}

// Adds the page at `offset` to a list of ranges (offset, length).
inline void add_range(std::vector<std::pair<uint64_t, uint64_t>>& ranges, uint64_t offset) {
  if (!ranges.empty() && ranges.back().first + ranges.back().second == offset) {
    ranges.back().second += kPageSize;
  } else {
    ranges.emplace_back(offset, kPageSize);
  }
}

}  // namespace pcow
