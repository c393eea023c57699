// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/units.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace pcow {

// Whether all bytes are zero. REQUIRES: 8 bytes or more, as a page has.
inline bool is_zero(std::span<const std::byte> bytes) {
  // Bytes equal themselves shifted by a word exactly when all words are equal.
  uint64_t first = 0;
  std::memcpy(&first, bytes.data(), sizeof(first));
  return first == 0 &&
         std::memcmp(bytes.data(), bytes.data() + sizeof(first), bytes.size() - sizeof(first)) == 0;
}

inline bool is_zero_page(const std::byte* page) { return is_zero({page, kPageSize}); }

}  // namespace pcow
