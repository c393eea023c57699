// SPDX-License-Identifier: BSD-3-Clause
//
// What writer and reader of the log agree on: where the log is, and when a record is one
// (FORMAT.md, section 10).
#pragma once

#include <pcow/units.h>
#include <array>
#include <bit>
#include <bitset>
#include <cstddef>
#include <cstdint>
#include <span>

#include "pcow/format/block.h"

namespace pcow {

struct LogPosition {
  uint64_t offset = 0;  // of the ring in image space
  uint64_t size = 0;    // of the ring
  uint64_t generation = 0;
  uint64_t tail = 0;  // LSN

  uint64_t place(uint64_t lsn) const { return offset + lsn % size; }
  uint64_t left(uint64_t lsn) const { return size - lsn % size; }  // up to the end of the ring
};

inline constexpr uint64_t kAllLines = ~uint64_t{0};
// A record of all lines of a page.
inline constexpr uint64_t kMaxRecordSize = sizeof(format::LogRecord) + kPageSize;

// Length of a record of these lines.
inline uint64_t lines_record_size(uint64_t mask) {
  return sizeof(format::LogRecord) + kLineSize * static_cast<uint64_t>(std::popcount(mask));
}

// A line of bits: windows of a segment, or pages of a window.
using BitLine = std::bitset<kLineSize * 8>;
using WindowSet = BitLine;
static_assert(kChunksPerSegment == BitLine().size() && kPagesPerChunk == BitLine().size());
std::array<std::byte, kLineSize> bytes_of(const BitLine& bits);
BitLine bits_of(std::span<const std::byte> bytes);

// A record of windows that are being filled, and one of pages that are zero.
inline constexpr uint64_t kFillingRecordSize = sizeof(format::LogRecord) + kLineSize;
inline constexpr uint64_t kZerosRecordSize = sizeof(format::LogRecord) + kLineSize;

// Over header and payload, the checksum's own field taken as zero.
uint32_t record_crc(std::span<const std::byte> record);

// Whether the header can be that of the record at `lsn`; then its length is at least a header's,
// and it ends within the ring. The checksum is not looked at.
bool is_record_at(const format::LogRecord& record, const LogPosition& ring, uint64_t lsn);

// Copies the lines `wanted` of a record that holds those of `mask` to their places in a page.
void expand_lines(std::span<const std::byte> payload, uint64_t mask, uint64_t wanted,
                  std::span<std::byte> page);

}  // namespace pcow
