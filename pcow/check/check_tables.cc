// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with what belongs to whom: chunk tables and page maps.
#include <bit>
#include <cstring>

#include "pcow/base/crc32c.h"
#include "pcow/check/checker.h"

namespace pcow {

using format::Block;
using format::BlockType;

Result<void> Checker::check_chunk_table(uint64_t offset, Table& table) {
  Block block;
  PCOW_TRY_ASSIGN(const bool ok, read_block(offset, BlockType::kChunkTable, "chunk table", block));
  if (!ok) return {};
  const auto& header = block.as<format::ChunkTableHeader>();
  const std::string name = "chunk table of guest GiB " + std::to_string(table.gib);
  check_reserved(header.reserved, "chunk table", offset);
  check_reserved(header.reserved2, "chunk table", offset);
  const uint64_t segment = header.segment;
  if (header.gib != table.gib || header.header.owner != header.layer ||
      !in_image(segment, kSegmentSize, kSegmentSize) ||
      !table_of_segment_.emplace(segment, offset).second) {
    corrupt(name + ": impossible header", offset);
    return {};
  }
  table.valid = true;
  table.layer = header.layer;
  table.parent = header.parent;
  table.segment = segment;
  const auto kind = segments_.find(segment / kSegmentSize);
  if (kind == segments_.end() ||
      static_cast<format::SegmentKind>(kind->second.kind) != format::SegmentKind::kData ||
      kind->second.owner != offset) {
    corrupt(name + ": its segment is not reserved for it", offset);
  }
  PCOW_TRY(check_chunks(offset, table, block));
  // Where versions that keep data checksums have written, anything may be left.
  const bool checksums = (superblock_->compatible & format::kCompatibleDataChecksums) != 0;
  Block tail;
  for (uint64_t at = format::kChunkTableUsed; at < format::kSlotSize; at += kPageSize) {
    if (checksums && at == format::kDataChecksumsOffset) continue;
    PCOW_TRY_ASSIGN(const bool there, read(offset + at, tail.bytes));
    if (!there || !(tail == Block{})) corrupt("chunk table: reserved bytes not zero", offset + at);
  }
  return {};
}

namespace {

uint64_t bits_set(const format::PageMapBytes& map) {
  uint64_t bits = 0;
  for (const uint8_t byte : map) bits += static_cast<uint64_t>(std::popcount(byte));
  return bits;
}

uint32_t map_crc(const format::PageMapBytes& map) { return crc32c(std::as_bytes(std::span(map))); }

}  // namespace

// Entries hold nothing that does not follow from the page maps. If those that follow have the
// checksum that the header wants, they and the maps are what was written.
bool Checker::rebuild_entries(uint64_t half, const Table& table, ChunkPages& chunks) const {
  chunks.entries[half] = {};
  for (uint64_t i = 0; i < format::kEntriesPerBlock; ++i) {
    const uint64_t chunk = half * format::kEntriesPerBlock + i;
    const uint64_t bits = bits_set(chunks.maps[chunk]);
    if (bits == 0) continue;
    format::ChunkEntry& entry = chunks.entry(chunk);
    entry.map_crc = map_crc(chunks.maps[chunk]);
    entry.owned_pages = static_cast<uint16_t>(bits);
    entry.state = static_cast<uint8_t>(format::ChunkState::kStored);
    entry.window = table.segment + chunk * kWindowSize;
  }
  return crc32c(chunks.entries[half].bytes) == chunks.fields().entries_crc[half];
}

// False when the chunks cannot be looked at.
Result<bool> Checker::read_chunks(uint64_t offset, const Table& table, ChunkPages& chunks) {
  const std::string name = "chunk table of guest GiB " + std::to_string(table.gib);
  chunks.maps.resize(kChunksPerSegment);
  const uint64_t maps_offset = offset + format::kPageMapsOffset;
  PCOW_TRY_ASSIGN(const bool maps_there,
                  read(maps_offset, std::as_writable_bytes(std::span(chunks.maps))));
  if (!maps_there) {
    corrupt(name + ": page maps past the end", maps_offset);
    return false;
  }
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t place = offset + format::kChunkEntriesOffset + half * kPageSize;
    PCOW_TRY_ASSIGN(const bool there, read(place, chunks.entries[half].bytes));
    if (there && crc32c(chunks.entries[half].bytes) == chunks.fields().entries_crc[half]) continue;
    if (!there || !rebuild_entries(half, table, chunks)) {
      corrupt(name + ": checksum of its entries", place);
      return false;
    }
    repairable(name + ": checksum of its entries", place);
    chunks.changed = true;
  }
  return true;
}

Result<void> Checker::check_chunks(uint64_t offset, Table& table, const Block& header) {
  const std::string name = "chunk table of guest GiB " + std::to_string(table.gib);
  ChunkPages chunks{header, {}, {}};
  PCOW_TRY_ASSIGN(const bool there, read_chunks(offset, table, chunks));
  if (!there) return {};
  OwnedPages owned(kPagesPerSegment, false);
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const format::PageMapBytes& map = chunks.maps[chunk];
    const bool in_order = check_chunk(offset, chunk, table, chunks);
    uint8_t& owning = chunks.fields().owning_chunks[chunk / 8];
    const auto bit = static_cast<uint8_t>(1u << (chunk % 8));
    const bool owns_pages = chunks.entry(chunk).owned_pages != 0;
    if (owns_pages != ((owning & bit) != 0)) {
      repairable(name + ": header and entry of chunk " + std::to_string(chunk) + " disagree",
                 offset);
      owning = static_cast<uint8_t>(owning ^ bit);
      chunks.changed = true;
    }
    if (!in_order) continue;
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      if ((map[page / 8] >> (page % 8) & 1) == 0) continue;
      owned[chunk * kPagesPerChunk + page] = true;
      ++table.pages;
    }
  }
  if (chunks.changed) plan_chunks(offset, chunks);
  PCOW_TRY(visit_content(table, owned));
  PCOW_TRY(check_checksums(offset, table, chunks));
  return check_ownerless_space(table.segment, owned, &table);
}

void Checker::plan_chunks(uint64_t offset, ChunkPages& chunks) {
  for (uint64_t half = 0; half < 2; ++half) {
    chunks.fields().entries_crc[half] = crc32c(chunks.entries[half].bytes);
    plan_.pages[offset + format::kChunkEntriesOffset + half * kPageSize] = chunks.entries[half];
  }
  format::seal(chunks.header);
  plan_.pages[offset] = chunks.header;
}

// Whether the entry of a chunk and its page map are in order, or can be brought in order.
bool Checker::check_chunk(uint64_t offset, uint64_t chunk, const Table& table, ChunkPages& chunks) {
  format::ChunkEntry& entry = chunks.entry(chunk);
  const format::PageMapBytes& map = chunks.maps[chunk];
  const uint64_t map_offset = offset + format::kPageMapsOffset + chunk * kLineSize;
  const auto state = static_cast<format::ChunkState>(entry.state);
  const uint64_t bits = bits_set(map);
  const std::string name = "chunk " + std::to_string(chunk);
  if (state == format::ChunkState::kNone) {
    const format::ChunkEntry none{};
    if (std::memcmp(&entry, &none, sizeof(none)) != 0 || bits != 0) {
      corrupt(name + ": an unused chunk that is not all zero", map_offset);
    }
  } else if (state != format::ChunkState::kStored || entry.reserved != 0 ||
             entry.window != table.segment + chunk * kWindowSize || bits == 0) {
    corrupt(name + ": impossible entry", offset);
  } else if (being_trimmed(table, chunk)) {
    corrupt(name + ": owns pages of a window that is to be emptied", offset);
  } else if (map_crc(map) != entry.map_crc) {
    corrupt(name + ": checksum mismatch in its page map", map_offset);
  } else {
    if (bits != entry.owned_pages) {
      repairable(name + ": wrong number of pages", map_offset);
      entry.owned_pages = static_cast<uint16_t>(bits);
      chunks.changed = true;
    }
    return true;
  }
  return false;
}

bool Checker::being_trimmed(const Table& table, uint64_t chunk) const {
  if (table.layer != root_.active_layer) return false;
  const uint64_t place = table.gib * kChunksPerSegment + chunk;
  return place >= root_.trim_first_chunk && place - root_.trim_first_chunk < root_.trim_chunk_count;
}

}  // namespace pcow
