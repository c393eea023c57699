// SPDX-License-Identifier: BSD-3-Clause
//
// Copies of what others may be storing to meanwhile: each byte is loaded once, so that the checksum
// is that of what was copied, whatever it was.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "pcow/base/crc32c.h"
#include "pcow/base/stream_copy.h"
#include "pcow/base/zero.h"

namespace pcow {

// What was copied.
struct Copied {
  uint32_t crc;  // of it behind what came before
  bool zero;
};

// Few enough bytes that the processor loads those of one piece while it stores those of another.
inline constexpr size_t kCopiedPiece = 512;

// `store(at, piece)` takes each piece. REQUIRES: from.size() is a multiple of 8.
template <typename Store>
Copied copy_changing(std::span<const std::byte> from, uint32_t crc, Store&& store) {
  alignas(64) std::array<std::byte, kCopiedPiece> bytes;
  Copied copied{crc, true};
  for (size_t at = 0; at < from.size(); at += kCopiedPiece) {
    const auto piece = std::span(bytes).first(std::min(kCopiedPiece, from.size() - at));
    copy_by_library(piece.data(), from.subspan(at, piece.size()));
    copied.crc = crc32c(piece, copied.crc);
    copied.zero = copied.zero && is_zero(piece);
    store(at, std::span<const std::byte>(piece));
  }
  return copied;
}

}  // namespace pcow
