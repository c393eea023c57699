// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with what belongs to whom: layers, chunk tables, page maps,
// and file space without an owner.
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>

#include "pcow/base/crc32c.h"
#include "pcow/check/checker.h"

namespace pcow {

using format::Block;
using format::BlockType;

Result<void> Checker::check_layer() {
  const uint64_t at = root_.active_record;
  const uint64_t block_offset = at - at % format::kBlockSize;
  const uint64_t place = at % format::kBlockSize;
  const uint64_t slot = root_.layer_directory[0];
  if (!in_image(slot, format::kSlotSize, format::kSlotSize) || block_offset < slot ||
      block_offset >= slot + format::kSlotSize || place < sizeof(format::BlockHeader) ||
      (place - sizeof(format::BlockHeader)) % sizeof(format::LayerRecord) != 0 ||
      place + sizeof(format::LayerRecord) > format::kBlockSize) {
    corrupt("root block: the active layer's record lies outside the layer directory", at);
    return {};
  }
  claim_slot(slot, "layer directory");
  PCOW_TRY(check_spare_blocks(slot, (block_offset - slot) / format::kBlockSize + 1,
                              BlockType::kLayerDirectory, "layer directory"));
  Block block;
  PCOW_TRY_ASSIGN(const bool ok,
                  read_block(block_offset, BlockType::kLayerDirectory, "layer directory", block));
  if (!ok) return {};
  const auto& directory = block.as<format::LayerDirectoryBlock>();
  check_reserved(directory.reserved, "layer directory", block_offset);
  const format::LayerRecord record =
      directory.records[(place - sizeof(format::BlockHeader)) / sizeof(format::LayerRecord)];
  if (record.id != root_.active_layer || record.flags != 0 || record.name_length != 0) {
    corrupt("layer directory: the active layer's record is not that of an active layer", at);
  }
  PCOW_TRY(check_layer_table(record));
  report_.allocated_pages = pages_counted_;
  if (record.allocated_pages != pages_counted_ || root_.allocated_pages != pages_counted_) {
    corrupt("page counts: " + std::to_string(pages_counted_) + " pages are owned, the root says " +
                std::to_string(root_.allocated_pages) + ", the layer " +
                std::to_string(record.allocated_pages),
            at);
  }
  for (const auto& [index, entry] : segments_) {
    if (static_cast<format::SegmentKind>(entry.kind) != format::SegmentKind::kData) continue;
    const auto table = table_of_segment_.find(index * kSegmentSize);
    if (table == table_of_segment_.end() || table->second != entry.owner) {
      corrupt("segment table: segment " + std::to_string(index) +
                  " is reserved for a chunk table that does not exist",
              index * kSegmentSize);
    }
  }
  return {};
}

Result<void> Checker::check_layer_table(const format::LayerRecord& record) {
  const uint64_t gibs = (root_.virtual_size + kGiB - 1) / kGiB;
  for (uint64_t slot : record.tables) {
    if (slot == 0) continue;
    if (!in_image(slot, format::kSlotSize, format::kSlotSize)) {
      corrupt("layer directory: layer table outside the image", slot);
      return {};
    }
    claim_slot(slot, "layer table");
  }
  for (uint64_t first = 0; first < format::kLayerTableSlots * format::kGibsPerSlot;
       first += format::kGibsPerBlock) {
    const uint64_t slot = record.tables[first / format::kGibsPerSlot];
    const uint64_t offset =
        slot + first % format::kGibsPerSlot / format::kGibsPerBlock * format::kBlockSize;
    const bool needed = first < gibs;
    if (slot == 0 && !needed) break;
    if (slot == 0) {
      corrupt("layer directory: a layer table is missing", root_.active_record);
      return {};
    }
    Block block;
    if (!needed) {  // of an earlier, larger size, or a hole
      PCOW_TRY_ASSIGN(const bool there, read(offset, block.bytes));
      if (!there || block == Block{}) continue;
    }
    PCOW_TRY_ASSIGN(const bool ok,
                    read_block(offset, BlockType::kLayerTable, "layer table", block));
    if (!ok) continue;
    const auto& table = block.as<format::LayerTableBlock>();
    for (uint64_t i = 0; i < format::kGibsPerBlock; ++i) {
      const uint64_t chunk_table = table.chunk_tables[i];
      if (chunk_table == 0) continue;
      if (!in_image(chunk_table, format::kSlotSize, format::kSlotSize)) {
        corrupt("layer table: chunk table outside the image", chunk_table);
        continue;
      }
      PCOW_TRY(check_chunk_table(chunk_table, first + i, record.id));
    }
    if (*progress_) (*progress_)(std::min(gibs, first + format::kGibsPerBlock) * kGiB, gibs * kGiB);
  }
  return {};
}

Result<void> Checker::check_chunk_table(uint64_t offset, uint64_t gib, uint64_t layer) {
  claim_slot(offset, "chunk table");
  Block block;
  PCOW_TRY_ASSIGN(const bool ok, read_block(offset, BlockType::kChunkTable, "chunk table", block));
  if (!ok) return {};
  const auto& header = block.as<format::ChunkTableHeader>();
  check_reserved(header.reserved, "chunk table", offset);
  check_reserved(header.reserved2, "chunk table", offset);
  const uint64_t segment = header.segment;
  if (header.gib != gib || header.layer != layer || header.parent != 0 ||
      !in_image(segment, kSegmentSize, kSegmentSize) ||
      !table_of_segment_.emplace(segment, offset).second) {
    corrupt("chunk table of guest GiB " + std::to_string(gib) + ": impossible header", offset);
    return {};
  }
  const auto kind = segments_.find(segment / kSegmentSize);
  if (kind == segments_.end() || kind->second.owner != offset) {
    corrupt(
        "chunk table of guest GiB " + std::to_string(gib) + ": its segment is not reserved for it",
        offset);
  }
  std::array<Block, 2> entries;
  for (uint64_t half = 0; half < 2; ++half) {
    const uint64_t place = offset + format::kChunkEntriesOffset + half * kPageSize;
    PCOW_TRY_ASSIGN(const bool there, read(place, entries[half].bytes));
    if (!there || crc32c(entries[half].bytes) != header.entries_crc[half]) {
      corrupt("chunk table of guest GiB " + std::to_string(gib) + ": checksum of its entries",
              place);
      return {};
    }
  }
  std::vector<format::PageMapBytes> maps(kChunksPerSegment);
  const uint64_t maps_offset = offset + format::kPageMapsOffset;
  PCOW_TRY_ASSIGN(const bool maps_there,
                  read(maps_offset, std::as_writable_bytes(std::span(maps))));
  if (!maps_there) {
    corrupt("chunk table of guest GiB " + std::to_string(gib) + ": page maps past the end",
            maps_offset);
    return {};
  }
  owned_[segment].assign(kPagesPerSegment, false);
  gib_of_segment_[segment] = gib;
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const auto* half = reinterpret_cast<const format::ChunkEntry*>(
        entries[chunk / format::kEntriesPerBlock].bytes.data());
    const format::ChunkEntry& entry = half[chunk % format::kEntriesPerBlock];
    const bool owning = (header.owning_chunks[chunk / 8] >> (chunk % 8) & 1) != 0;
    if (owning != (entry.owned_pages != 0)) {
      corrupt("chunk table of guest GiB " + std::to_string(gib) + ": header and entry of chunk " +
                  std::to_string(chunk) + " disagree",
              offset);
    }
    check_chunk(entry, maps[chunk], offset, chunk, segment);
  }
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

void Checker::claim_pages(uint64_t segment, uint64_t chunk, const format::PageMapBytes& map) {
  std::vector<bool>& owned = owned_[segment];
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if ((map[page / 8] >> (page % 8) & 1) == 0) continue;
    owned[chunk * kPagesPerChunk + page] = true;
    ++pages_counted_;
  }
}

void Checker::check_chunk(const format::ChunkEntry& entry, const format::PageMapBytes& map,
                          uint64_t offset, uint64_t chunk, uint64_t segment) {
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
             entry.window != segment + chunk * kWindowSize || bits == 0) {
    corrupt(name + ": impossible entry", offset);
  } else if (being_trimmed(segment, chunk)) {
    corrupt(name + ": owns pages of a window that is to be emptied", offset);
  } else if (crc32c(std::as_bytes(std::span(map))) != entry.map_crc || bits != entry.owned_pages) {
    corrupt(name + ": checksum mismatch in its page map", map_offset);
  } else {
    claim_pages(segment, chunk, map);
  }
}

// Whether the window was dropped and is not emptied yet (FORMAT.md, section 10, "Trim").
bool Checker::being_trimmed(uint64_t segment, uint64_t chunk) const {
  const auto gib = gib_of_segment_.find(segment);
  if (gib == gib_of_segment_.end()) return false;
  const uint64_t place = gib->second * kChunksPerSegment + chunk;
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
Result<void> Checker::check_ownerless_space() {
  for (const auto& [segment, owned] : owned_) {
    const auto end = static_cast<off_t>(segment + kSegmentSize);
    auto at = static_cast<off_t>(segment);
    uint64_t reserved_pages = 0;
    uint64_t trimmed_pages = 0;
    while (at < end) {
      const off_t data = lseek(file_->fd(), at, SEEK_DATA);
      if (data < 0 && errno != ENXIO) {
        return errno_error(errno, "cannot look for data in '" + file_->path() + "'");
      }
      if (data < 0 || data >= end) break;
      const off_t hole = std::min(lseek(file_->fd(), data, SEEK_HOLE), end);
      if (hole < 0) return errno_error(errno, "cannot look for holes in '" + file_->path() + "'");
      const uint64_t first = static_cast<uint64_t>(data) / kPageSize * kPageSize;
      for (uint64_t page = first; page < static_cast<uint64_t>(hole); page += kPageSize) {
        if (owned[(page - segment) / kPageSize]) continue;
        if (being_trimmed(segment, (page - segment) / kWindowSize)) {
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
      at = hole;
    }
    if (live_) continue;
    leak(reserved_pages, "of zeros nothing owns", segment);
    leak(trimmed_pages, "of dropped chunks, which the next writable open gives back,", segment);
  }
  return {};
}

}  // namespace pcow
