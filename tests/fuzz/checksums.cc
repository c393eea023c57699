// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/checksums.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <numeric>
#include <span>
#include <vector>

#include "pcow/base/crc32c.h"

namespace fuzz {
namespace {

namespace format = pcow::format;
using format::Block;
using pcow::kLineSize;
using pcow::kPageSize;
using Pages = std::map<uint64_t, Block>;

// Bytes of the file across pages; holes read as zeros and stay holes.
std::vector<std::byte> read_bytes(const Pages& pages, uint64_t offset, size_t length) {
  std::vector<std::byte> bytes(length);
  for (size_t done = 0; done < length;) {
    const uint64_t at = offset + done;
    const size_t part = std::min(length - done, kPageSize - at % kPageSize);
    if (const auto page = pages.find(at - at % kPageSize); page != pages.end()) {
      std::memcpy(&bytes[done], page->second.bytes.data() + at % kPageSize, part);
    }
    done += part;
  }
  return bytes;
}

void write_bytes(Pages& pages, uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t part = std::min(bytes.size(), kPageSize - offset % kPageSize);
    if (const auto page = pages.find(offset - offset % kPageSize); page != pages.end()) {
      std::memcpy(page->second.bytes.data() + offset % kPageSize, bytes.data(), part);
    }
    offset += part;
    bytes = bytes.subspan(part);
  }
}

constexpr size_t kEntriesSize = format::kPageMapsOffset - format::kChunkEntriesOffset;

using Entries = std::array<format::ChunkEntry, pcow::kChunksPerSegment>;
static_assert(sizeof(Entries) == kEntriesSize);

Entries read_entries(const Pages& pages, uint64_t slot) {
  Entries entries;
  std::memcpy(entries.data(),
              read_bytes(pages, slot + format::kChunkEntriesOffset, kEntriesSize).data(),
              kEntriesSize);
  return entries;
}

format::PageMapBytes read_map(const Pages& pages, uint64_t slot, size_t chunk) {
  format::PageMapBytes map;
  const uint64_t offset = slot + format::kPageMapsOffset + chunk * sizeof(map);
  std::memcpy(map.data(), read_bytes(pages, offset, sizeof(map)).data(), sizeof(map));
  return map;
}

// Records of layers, wherever a template has them.
void add_to_layer(const TemplateImage& base, Pages& pages, uint64_t id, uint64_t added) {
  for (const TemplatePage& page : base.pages) {
    const auto& block = page.content.as<format::LayerDirectoryBlock>();
    if (page.role != Role::kBlock ||
        block.header.type != static_cast<uint16_t>(format::BlockType::kLayerDirectory)) {
      continue;
    }
    for (auto& record : pages[page.offset].as<format::LayerDirectoryBlock>().records) {
      if (record.id == id) record.allocated_pages = record.allocated_pages + added;
    }
  }
}

// A table that waits in quarantine is not counted any more.
bool is_given_up(const TemplateImage& base, const Pages& pages, uint64_t slot) {
  return std::any_of(base.pages.begin(), base.pages.end(), [&](const TemplatePage& page) {
    if (page.role != Role::kBlock) return false;
    const auto& table = pages.at(page.offset).as<format::SegmentTableBlock>();
    const auto named = [slot](const format::SegmentEntry& entry) {
      return entry.kind == static_cast<uint8_t>(format::SegmentKind::kQuarantined) &&
             entry.owner == slot;
    };
    return table.header.type == static_cast<uint16_t>(format::BlockType::kSegmentTable) &&
           std::any_of(table.entries.begin(), table.entries.end(), named);
  });
}

// Entries, header, layer and image count the pages that the table's maps say it owns.
void count_pages(const TemplateImage& base, Pages& pages, uint64_t slot) {
  auto& header = pages[slot].as<format::ChunkTableHeader>();
  Entries entries = read_entries(pages, slot);
  uint64_t added = 0;  // may wrap around: fewer
  for (size_t chunk = 0; chunk < entries.size(); ++chunk) {
    const format::PageMapBytes map = read_map(pages, slot, chunk);
    const auto owned =
        static_cast<uint16_t>(std::accumulate(map.begin(), map.end(), 0, [](int sum, uint8_t byte) {
          return sum + std::popcount(byte);
        }));
    added += owned;
    added -= entries[chunk].owned_pages;
    entries[chunk] = {};
    const auto bit = static_cast<uint8_t>(1U << (chunk % 8));
    uint8_t& owning = header.owning_chunks[chunk / 8];
    owning = static_cast<uint8_t>(owned != 0 ? owning | bit : owning & ~bit);
    if (owned == 0) continue;
    entries[chunk].owned_pages = owned;
    entries[chunk].state = static_cast<uint8_t>(format::ChunkState::kStored);
    entries[chunk].window = header.segment + chunk * pcow::kWindowSize;
  }
  write_bytes(pages, slot + format::kChunkEntriesOffset, std::as_bytes(std::span(entries)));
  if (added == 0 || is_given_up(base, pages, slot)) return;
  auto& root = pages[format::kRootOffset].as<format::RootBlock>();
  root.allocated_pages = root.allocated_pages + added;
  add_to_layer(base, pages, header.layer, added);
}

void seal_chunk_table(Pages& pages, uint64_t slot) {
  Entries entries = read_entries(pages, slot);
  for (size_t chunk = 0; chunk < entries.size(); ++chunk) {
    if (entries[chunk].state == static_cast<uint8_t>(format::ChunkState::kNone)) continue;
    const format::PageMapBytes map = read_map(pages, slot, chunk);
    entries[chunk].map_crc = pcow::crc32c(std::as_bytes(std::span(map)));
  }
  const auto bytes = std::as_bytes(std::span(entries));
  write_bytes(pages, slot + format::kChunkEntriesOffset, bytes);
  auto& header = pages[slot].as<format::ChunkTableHeader>();
  for (size_t half = 0; half < header.entries_crc.size(); ++half) {
    header.entries_crc[half] = pcow::crc32c(bytes.subspan(half * kPageSize, kPageSize));
  }
  format::seal(pages[slot]);
}

// A record as far as it can be one: the engine looks at no other.
bool plausible(const format::LogRecord& record) {
  return record.length >= sizeof(record) && record.length <= sizeof(record) + kPageSize &&
         record.length % kLineSize == 0;
}

format::LogRecord header_of(const Pages& pages, const LogPlace& place) {
  format::LogRecord record{};
  std::memcpy(&record, read_bytes(pages, place.offset, sizeof(record)).data(), sizeof(record));
  return record;
}

bool is_table(const TemplatePage& page) {
  return page.role == Role::kChunkTable && page.offset % format::kSlotSize == 0;
}

// Tables come first: blocks hold numbers that are counted in them.
void seal_structures(const TemplateImage& base, bool count, Pages& pages) {
  for (const TemplatePage& page : base.pages) {
    if (!is_table(page)) continue;
    if (count) count_pages(base, pages, page.offset);
    seal_chunk_table(pages, page.offset);
  }
  for (const TemplatePage& page : base.pages) {
    if (page.role == Role::kBlock) format::seal(pages[page.offset]);
    if (page.role == Role::kSuperblock) {
      format::seal_superblock(pages[page.offset].as<format::Superblock>());
    }
  }
}

// Seals what replaying the log makes of the pages: a line that the log has is changed there.
void seal_replayed(const TemplateImage& base, bool count, Pages& pages) {
  Pages replayed = pages;
  std::map<uint64_t, uint64_t> logged;  // line in the file → its last copy in the log
  for (const LogPlace& place : base.records) {
    const format::LogRecord record = header_of(pages, place);
    const bool lines = record.type == static_cast<uint16_t>(format::RecordType::kLines);
    if (!lines || !plausible(record)) continue;
    uint64_t copy = place.offset + sizeof(record);
    for (uint64_t mask = record.mask; mask != 0; mask &= mask - 1) {
      const uint64_t line =
          record.target + static_cast<uint64_t>(std::countr_zero(mask)) * kLineSize;
      write_bytes(replayed, line, read_bytes(pages, copy, kLineSize));
      logged[line] = copy;
      copy += kLineSize;
    }
  }
  seal_structures(base, count, replayed);
  for (const TemplatePage& page : base.pages) {
    if (page.role != Role::kBlock && page.role != Role::kChunkTable) continue;
    for (uint64_t line = page.offset; line < page.offset + kPageSize; line += kLineSize) {
      const auto copy = logged.find(line);
      write_bytes(pages, copy == logged.end() ? line : copy->second,
                  read_bytes(replayed, line, kLineSize));
    }
  }
}

void seal_records(const TemplateImage& base, Pages& pages) {
  for (const LogPlace& place : base.records) {
    format::LogRecord record = header_of(pages, place);
    if (!plausible(record)) continue;
    record.crc = 0;
    write_bytes(pages, place.offset, std::as_bytes(std::span(&record, 1)));
    const bool pad = record.type == static_cast<uint16_t>(format::RecordType::kPad);
    const size_t length = pad ? sizeof(record) : size_t{record.length};
    record.crc = pcow::crc32c(read_bytes(pages, place.offset, length));
    write_bytes(pages, place.offset, std::as_bytes(std::span(&record, 1)));
  }
}

}  // namespace

void seal_all(const TemplateImage& base, bool count, Pages& pages) {
  const auto& superblock = pages[format::kSuperblockOffset[0]].as<format::Superblock>();
  const bool dirty = (superblock.state & format::kStateDirty) != 0;
  seal_structures(base, count && !dirty, pages);
  if (dirty) seal_replayed(base, count, pages);
  seal_records(base, pages);
}

}  // namespace fuzz
