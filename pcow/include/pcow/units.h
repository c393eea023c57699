// SPDX-License-Identifier: BSD-3-Clause
//
// The sizes the format is built from, and strong types for the numbers that count them. Two kinds
// of number never share a type: a chunk index does not convert to a page index.
#pragma once

#include <compare>
#include <cstdint>

namespace pcow {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kGiB = 1024 * kMiB;
inline constexpr uint64_t kTiB = 1024 * kGiB;

inline constexpr uint64_t kLineSize = 64;            // unit of log records: a cache line
inline constexpr uint64_t kPageSize = 4 * kKiB;      // unit of allocation and tracking
inline constexpr uint64_t kChunkSize = 2 * kMiB;     // unit of guest memory mapping
inline constexpr uint64_t kWindowSize = kChunkSize;  // place of a chunk in the image
inline constexpr uint64_t kSegmentSize = 1 * kGiB;   // 512 windows, contiguous in the image

inline constexpr uint64_t kLinesPerPage = kPageSize / kLineSize;
inline constexpr uint64_t kPagesPerChunk = kChunkSize / kPageSize;
inline constexpr uint64_t kChunksPerSegment = kSegmentSize / kChunkSize;
inline constexpr uint64_t kPagesPerSegment = kSegmentSize / kPageSize;

// A number that counts one kind of thing. Explicit in, explicit out (`value`), ordered; differences
// and offsets are plain integers.
template <typename Tag>
struct Index {
  uint64_t value = 0;

  constexpr Index() = default;
  constexpr explicit Index(uint64_t v) : value(v) {}
  constexpr auto operator<=>(const Index&) const = default;  // NOLINT: clang-tidy sees a 0 here
  constexpr Index operator+(uint64_t n) const { return Index(value + n); }
  constexpr uint64_t operator-(Index other) const { return value - other.value; }
  constexpr Index& operator++() {
    ++value;
    return *this;
  }
};

using PageIndex = Index<struct PageTag>;        // 4 KiB page of guest memory
using ChunkIndex = Index<struct ChunkTag>;      // 2 MiB chunk of guest memory
using GibIndex = Index<struct GibTag>;          // 1 GiB of guest memory
using WindowIndex = Index<struct WindowTag>;    // 2 MiB of image space
using SegmentIndex = Index<struct SegmentTag>;  // 1 GiB of image space
using Epoch = Index<struct EpochTag>;           // committed states of the image, ascending
using LayerId = Index<struct LayerTag>;

constexpr ChunkIndex chunk_of(PageIndex page) { return ChunkIndex(page.value / kPagesPerChunk); }
constexpr GibIndex gib_of(ChunkIndex chunk) { return GibIndex(chunk.value / kChunksPerSegment); }
constexpr PageIndex first_page(ChunkIndex c) { return PageIndex(c.value * kPagesPerChunk); }
constexpr ChunkIndex first_chunk(GibIndex gib) { return ChunkIndex(gib.value * kChunksPerSegment); }
constexpr uint64_t page_in_chunk(PageIndex page) { return page.value % kPagesPerChunk; }
constexpr uint64_t chunk_in_segment(ChunkIndex c) { return c.value % kChunksPerSegment; }

constexpr uint64_t round_up(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace pcow
