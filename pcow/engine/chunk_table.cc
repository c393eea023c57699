// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/chunk_table.h"

#include <bit>
#include <cstring>

#include "pcow/base/crc32c.h"

namespace pcow {
namespace {

using format::ChunkEntry;
using format::ChunkState;
using format::ChunkTableHeader;

uint32_t map_crc(const format::PageMapBytes& map) { return crc32c(std::as_bytes(std::span(map))); }

uint32_t bits_set(const format::PageMapBytes& map) {
  uint32_t count = 0;
  for (const uint8_t byte : map) count += static_cast<uint32_t>(std::popcount(byte));
  return count;
}

uint64_t entries_page(uint64_t offset, uint64_t half) {
  return offset + format::kChunkEntriesOffset + half * kPageSize;
}

uint64_t map_page(uint64_t offset, uint64_t chunk) {
  return offset + format::kPageMapsOffset + chunk / format::kMapsPerBlock * kPageSize;
}

}  // namespace

const ChunkEntry& ChunkEntries::entry(uint64_t chunk_in_segment) const {
  const format::Block& block = blocks[chunk_in_segment / format::kEntriesPerBlock];
  return reinterpret_cast<const ChunkEntry*>(
      block.bytes.data())[chunk_in_segment % format::kEntriesPerBlock];
}

uint64_t ChunkEntries::owned_pages() const {
  uint64_t pages = 0;
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) pages += entry(chunk).owned_pages;
  return pages;
}

Error ChunkTable::damaged(const std::string& what) const {
  store_->report_damage();
  return make_error(Code::kCorrupt, "'" + *path_ + "' is damaged: chunk table of guest GiB " +
                                        std::to_string(gib_.value) + " at offset " +
                                        std::to_string(offset_) + ": " + what +
                                        "; see 'pcow-img check', restore the file from a copy");
}

Result<void> ChunkTable::verify_header(const format::Block& block) const {
  if (const std::string defect =
          format::block_defect(block, format::BlockType::kChunkTable, offset_, uuid_);
      !defect.empty()) {
    return damaged(defect);
  }
  const auto& header = block.as<ChunkTableHeader>();
  if (header.gib != gib_.value) return damaged("it describes another GiB");
  if (header.parent % format::kSlotSize != 0 || header.parent >= image_end_ ||
      header.parent == offset_) {
    return damaged("its parent lies outside the image");
  }
  if (header.segment == 0 || header.segment % kSegmentSize != 0 || header.segment >= image_end_) {
    return damaged("its segment lies outside the image");
  }
  return {};
}

Result<void> ChunkTable::read_header(format::Block& out) const {
  PCOW_TRY(store_->peek(offset_, out.bytes));
  return verify_header(out);
}

Result<void> ChunkTable::read_entries(ChunkEntries& out) const {
  std::array<std::byte, 3 * kPageSize> bytes;
  PCOW_TRY(store_->peek(offset_, bytes));
  std::memcpy(out.header.bytes.data(), bytes.data(), kPageSize);
  std::memcpy(out.blocks[0].bytes.data(), bytes.data() + kPageSize, kPageSize);
  std::memcpy(out.blocks[1].bytes.data(), bytes.data() + 2 * kPageSize, kPageSize);
  PCOW_TRY(verify_header(out.header));
  const auto& header = out.header.as<ChunkTableHeader>();
  for (size_t half = 0; half < 2; ++half) {
    if (crc32c(out.blocks[half].bytes) != header.entries_crc[half]) {
      return damaged("checksum mismatch in its entries");
    }
  }
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const ChunkEntry& entry = out.entry(chunk);
    const bool stored = entry.state == static_cast<uint8_t>(ChunkState::kStored);
    const uint64_t place = header.segment + chunk * kWindowSize;
    if (entry.state != static_cast<uint8_t>(ChunkState::kNone) && !stored) {
      return damaged("impossible chunk state");
    }
    if (stored &&
        (entry.window != place || entry.owned_pages == 0 || entry.owned_pages > kPagesPerChunk)) {
      return damaged("impossible entry of chunk " + std::to_string(chunk));
    }
    if ((!stored && (entry.window != 0 || entry.owned_pages != 0)) ||
        stored != owns(header.owning_chunks, chunk)) {
      return damaged("impossible entry of chunk " + std::to_string(chunk));
    }
  }
  return {};
}

Result<format::PageMapBytes> ChunkTable::page_map(uint64_t chunk, const ChunkEntry& entry) const {
  PCOW_TRY_ASSIGN(const format::Block* page, store_->raw_page(map_page(offset_, chunk)));
  format::PageMapBytes map;
  std::memcpy(map.data(), page->bytes.data() + chunk % format::kMapsPerBlock * sizeof(map),
              sizeof(map));
  const bool none = entry.state == static_cast<uint8_t>(ChunkState::kNone);
  if (none ? map != format::PageMapBytes{}
           : map_crc(map) != entry.map_crc || bits_set(map) != entry.owned_pages) {
    return damaged("checksum mismatch in the page map of chunk " + std::to_string(chunk));
  }
  return map;
}

Result<void> ChunkTable::set_entry(uint64_t chunk, const ChunkEntry& entry,
                                   const format::PageMapBytes& map) {
  PCOW_TRY_ASSIGN(format::Block * maps, store_->modify_raw_page(map_page(offset_, chunk)));
  std::memcpy(maps->bytes.data() + chunk % format::kMapsPerBlock * sizeof(map), map.data(),
              sizeof(map));
  const uint64_t half = chunk / format::kEntriesPerBlock;
  PCOW_TRY_ASSIGN(format::Block * entries, store_->modify_raw_page(entries_page(offset_, half)));
  std::memcpy(entries->bytes.data() + chunk % format::kEntriesPerBlock * sizeof(entry), &entry,
              sizeof(entry));
  return {};
}

Result<void> ChunkTable::set_map(uint64_t chunk, const format::PageMapBytes& map,
                                 uint64_t segment_offset) {
  ChunkEntry entry{};
  entry.map_crc = map_crc(map);
  entry.owned_pages = static_cast<uint16_t>(bits_set(map));
  entry.state = static_cast<uint8_t>(ChunkState::kStored);
  entry.window = segment_offset + chunk * kWindowSize;
  return set_entry(chunk, entry, map);
}

Result<void> ChunkTable::clear(uint64_t chunk) { return set_entry(chunk, ChunkEntry{}, {}); }

Result<void> ChunkTable::finish() {
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_->modify_block(offset_, format::BlockType::kChunkTable));
  auto& header = block->as<ChunkTableHeader>();
  for (uint64_t half = 0; half < 2; ++half) {
    PCOW_TRY_ASSIGN(const format::Block* entries, store_->raw_page(entries_page(offset_, half)));
    header.entries_crc[half] = crc32c(entries->bytes);
    const auto* entry = reinterpret_cast<const ChunkEntry*>(entries->bytes.data());
    for (uint64_t i = 0; i < format::kEntriesPerBlock; ++i) {
      const uint64_t chunk = half * format::kEntriesPerBlock + i;
      const auto bit = static_cast<uint8_t>(1u << (chunk % 8));
      uint8_t& byte = header.owning_chunks[chunk / 8];
      byte = static_cast<uint8_t>(entry[i].owned_pages != 0 ? byte | bit : byte & ~bit);
    }
  }
  format::seal(*block);  // now, so that the table can be read again inside this transaction
  return {};
}

Result<ChunkTableHeader*> ChunkTable::modify_header() {
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_->modify_block(offset_, format::BlockType::kChunkTable));
  return &block->as<ChunkTableHeader>();
}

Result<void> ChunkTable::set_layer(LayerId layer) {
  PCOW_TRY_ASSIGN(ChunkTableHeader * header, modify_header());
  header->layer = layer.value;
  header->header.owner = layer.value;
  return {};
}

void ChunkTable::create(LayerId layer, uint64_t segment_offset, uint64_t parent) {
  auto& header = store_->create_block(offset_, format::BlockType::kChunkTable, layer.value)
                     ->as<ChunkTableHeader>();
  header.gib = gib_.value;
  header.layer = layer.value;
  header.segment = segment_offset;
  header.parent = parent;
  for (uint64_t page = 1; page < format::kChunkTableUsed / kPageSize; ++page) {
    store_->create_raw_page(offset_ + page * kPageSize);
  }
}

}  // namespace pcow
