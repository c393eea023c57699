// SPDX-License-Identifier: BSD-3-Clause
//
// Pages that are next to each other, and ranges that begin or end within a page.
#pragma once

#include <sys/uio.h>

#include <pcow/image.h>
#include <pcow/status.h>
#include <algorithm>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "pcow/format/block.h"

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

// Adds a page to what is written to adjacent places.
inline void add_part(std::vector<iovec>& parts, const std::byte* data) {
  if (!parts.empty() &&
      static_cast<std::byte*>(parts.back().iov_base) + parts.back().iov_len == data) {
    parts.back().iov_len += kPageSize;
  } else {
    parts.push_back({const_cast<std::byte*>(data), kPageSize});  // iovec is not const-correct
  }
}

// Bytes of the image from `offset` on, of which the page at `place` has newer content: change(page)
// puts it into that page. REQUIRES: some of the bytes are of that page.
template <typename Change>
Result<void> change_page(uint64_t place, uint64_t offset, std::span<std::byte> bytes,
                         const Change& change) {
  const uint64_t from = std::max(place, offset);
  const uint64_t end = std::min(place + kPageSize, offset + bytes.size());
  const auto part = bytes.subspan(from - offset, end - from);
  format::Block page;
  const auto in_page = std::span(page.bytes).subspan(from - place, part.size());
  std::ranges::copy(part, in_page.begin());
  PCOW_TRY(change(page));
  std::ranges::copy(in_page, part.begin());
  return {};
}

}  // namespace pcow
