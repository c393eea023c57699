// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with what belongs to whom: chunk tables, page maps, and file
// space without an owner.
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
  PCOW_TRY(check_chunks(offset, table, header));
  // Data checksums are for versions that keep them: anything may be there.
  const bool checksums = (superblock_->compatible & format::kCompatibleDataChecksums) != 0;
  Block tail;
  for (uint64_t at = format::kChunkTableUsed; at < format::kSlotSize; at += kPageSize) {
    if (checksums && at == format::kDataChecksumsOffset) continue;
    PCOW_TRY_ASSIGN(const bool there, read(offset + at, tail.bytes));
    if (!there || !(tail == Block{})) corrupt("chunk table: reserved bytes not zero", offset + at);
  }
  return {};
}

Result<void> Checker::check_chunks(uint64_t offset, Table& table,
                                   const format::ChunkTableHeader& header) {
  const std::string name = "chunk table of guest GiB " + std::to_string(table.gib);
  std::array<Block, 2> entries;
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t place = offset + format::kChunkEntriesOffset + half * kPageSize;
    PCOW_TRY_ASSIGN(const bool there, read(place, entries[half].bytes));
    if (!there || crc32c(entries[half].bytes) != header.entries_crc[half]) {
      corrupt(name + ": checksum of its entries", place);
      return {};
    }
  }
  std::vector<format::PageMapBytes> maps(kChunksPerSegment);
  const uint64_t maps_offset = offset + format::kPageMapsOffset;
  PCOW_TRY_ASSIGN(const bool maps_there,
                  read(maps_offset, std::as_writable_bytes(std::span(maps))));
  if (!maps_there) {
    corrupt(name + ": page maps past the end", maps_offset);
    return {};
  }
  OwnedPages owned(kPagesPerSegment, false);
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const auto* half = reinterpret_cast<const format::ChunkEntry*>(
        entries[chunk / format::kEntriesPerBlock].bytes.data());
    const format::ChunkEntry& entry = half[chunk % format::kEntriesPerBlock];
    const bool owning = (header.owning_chunks[chunk / 8] >> (chunk % 8) & 1) != 0;
    if (owning != (entry.owned_pages != 0)) {
      corrupt(name + ": header and entry of chunk " + std::to_string(chunk) + " disagree", offset);
    }
    if (!check_chunk(entry, maps[chunk], offset, chunk, table)) continue;
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      if ((maps[chunk][page / 8] >> (page % 8) & 1) == 0) continue;
      owned[chunk * kPagesPerChunk + page] = true;
      ++table.pages;
    }
  }
  return check_ownerless_space(table.segment, owned, &table);
}

// Whether the entry of a chunk and its page map are in order.
bool Checker::check_chunk(const format::ChunkEntry& entry, const format::PageMapBytes& map,
                          uint64_t offset, uint64_t chunk, const Table& table) {
  const uint64_t map_offset = offset + format::kPageMapsOffset + chunk * kLineSize;
  const auto state = static_cast<format::ChunkState>(entry.state);
  uint64_t bits = 0;
  for (const uint8_t byte : map) bits += static_cast<uint64_t>(std::popcount(byte));
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
  } else if (crc32c(std::as_bytes(std::span(map))) != entry.map_crc || bits != entry.owned_pages) {
    corrupt(name + ": checksum mismatch in its page map", map_offset);
  } else {
    return true;
  }
  return false;
}

// Whether the window was dropped and is not emptied yet (FORMAT.md, section 10, "Trim").
bool Checker::being_trimmed(const Table& table, uint64_t chunk) const {
  if (table.layer != root_.active_layer) return false;
  const uint64_t place = table.gib * kChunksPerSegment + chunk;
  return place >= root_.trim_first_chunk && place - root_.trim_first_chunk < root_.trim_chunk_count;
}

void Checker::leak(uint64_t pages, const std::string& what, uint64_t segment) {
  if (pages == 0) return;
  report_.leaked_bytes += pages * kPageSize;
  report_.messages.push_back("leak: " + std::to_string(pages * kPageSize) + " bytes " + what +
                             " in the segment at offset " + std::to_string(segment));
}

// The zero rule: data in pages nobody owns would become visible to the guest. Only the windows of a
// trim that a crash cut short may hold some: the next writable open empties them before anyone can
// own them.
Result<void> Checker::check_ownerless_space(uint64_t segment, const OwnedPages& owned,
                                            const Table* table) {
  uint64_t reserved_pages = 0;
  uint64_t trimmed_pages = 0;
  const auto look = [&](uint64_t data, uint64_t hole) -> Result<void> {
    for (uint64_t page = data / kPageSize * kPageSize; page < hole; page += kPageSize) {
      if (owned[(page - segment) / kPageSize]) continue;
      if (table != nullptr && being_trimmed(*table, (page - segment) / kWindowSize)) {
        ++trimmed_pages;
        continue;
      }
      Block content;
      PCOW_TRY_ASSIGN(const bool there, read(page, content.bytes));
      if (there && !(content == Block{})) {
        corrupt("a page that nothing owns holds data", page);
      } else {
        ++reserved_pages;
      }
    }
    return {};
  };
  PCOW_TRY(file_->for_each_data(segment, segment + kSegmentSize, look));
  PCOW_TRY(check_logged_space(segment, owned, table));
  if (live_) return {};
  leak(reserved_pages, "of zeros nothing owns", segment);
  leak(trimmed_pages, "of dropped chunks, which the next writable open gives back,", segment);
  return {};
}

// The same for pages that are holes as long as the log is not replayed.
Result<void> Checker::check_logged_space(uint64_t segment, const OwnedPages& owned,
                                         const Table* table) {
  const uint64_t end_line = (segment + kSegmentSize) / kLineSize;
  auto it = log_.lines.lower_bound(segment / kLineSize);
  while (it != log_.lines.end() && it->first < end_line) {
    const uint64_t page = it->first / kLinesPerPage * kPageSize;
    it = log_.lines.lower_bound(page / kLineSize + kLinesPerPage);
    if (owned[(page - segment) / kPageSize]) continue;
    if (table != nullptr && being_trimmed(*table, (page - segment) / kWindowSize)) continue;
    if (file_->is_data(page)) continue;  // has been looked at
    Block content;
    PCOW_TRY_ASSIGN(const bool there, read(page, content.bytes));
    if (there && content != Block{}) corrupt("log: data for a page that nothing owns", page);
  }
  return {};
}

void Checker::check_data_segments() {
  for (const auto& [index, entry] : segments_) {
    if (static_cast<format::SegmentKind>(entry.kind) != format::SegmentKind::kData) continue;
    const auto table = table_of_segment_.find(index * kSegmentSize);
    if (table == table_of_segment_.end() || table->second != entry.owner) {
      corrupt("segment table: segment " + std::to_string(index) +
                  " is reserved for a chunk table that does not exist",
              index * kSegmentSize);
    }
  }
}

}  // namespace pcow
