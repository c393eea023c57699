// SPDX-License-Identifier: BSD-3-Clause
//
// Checksums of frozen data (FORMAT.md, section 9): making them, and dropping them in time.
//
// Invariants, while `data-checksums-valid` is set
//  1. A table of the active layer has none: its windows change without a transaction.
//  2. Whatever changes the pages of another table, or their content, is preceded by, or part of, a
//     transaction that drops the checksums of the table; so does giving it to the active layer.
// Versions that do not know this clear the bit before they change anything.
#include <pcow/scrub.h>
#include <cstring>
#include <set>

#include "pcow/base/crc32c.h"
#include "pcow/base/no_memory.h"
#include "pcow/base/zero.h"
#include "pcow/engine/image_impl.h"

namespace pcow {

using format::Block;
using format::DataChecksum;
using format::LayerRecord;

namespace {

uint64_t checksums_of(const ChunkTable& table) {
  return table.offset() + format::kDataChecksumsOffset;
}

DataChecksum* checksums_in(Block& page) {
  return reinterpret_cast<DataChecksum*>(page.bytes.data());
}

}  // namespace

bool ImageImpl::keeps_checksums() const {
  const format::Superblock& sb = superblocks_.current();
  return (sb.compatible & format::kCompatibleDataChecksums) != 0 &&
         (sb.autoclear & format::kAutoclearDataChecksumsValid) != 0;
}

// Inside a transaction.
Result<void> ImageImpl::drop_checksums(const ChunkTable& table) {
  if (!keeps_checksums()) return {};
  PCOW_TRY_ASSIGN(const Block* page, store_.raw_page(checksums_of(table)));
  if (is_zero(page->bytes)) return {};
  return store_.erase_page(checksums_of(table));
}

// Calls `visit` with every table of frozen content, once.
Result<void> ImageImpl::for_each_frozen_table(
    const std::function<Result<void>(const ChunkTable&)>& visit) const {
  PCOW_TRY_ASSIGN(const LayerRecord active, layer());
  std::vector<LayerRecord> records;
  const auto note = [&](uint64_t, const LayerRecord& record) -> Result<void> {
    PCOW_TRY(validate_layer(record));
    records.push_back(record);
    return {};
  };
  PCOW_TRY(layers_.for_each(note));
  std::set<uint64_t> seen;
  for (const LayerRecord& record : records) {
    for (GibIndex gib(0); gib.value * kGiB < record.virtual_size; ++gib) {
      PCOW_TRY_ASSIGN(const uint64_t first, table_entry(record, gib));
      PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, table_at(first, gib));
      uint64_t steps = 0;
      while (table && seen.insert(table->offset()).second) {
        Block block;
        PCOW_TRY(table->read_header(block));
        const auto& header = block.as<format::ChunkTableHeader>();
        if (header.layer != active.id) PCOW_TRY(visit(*table));
        PCOW_TRY_ASSIGN(table, parent_of(header, gib, steps));
      }
    }
  }
  return {};
}

// From here on what a table has at the place of its checksums means something.
Result<void> ImageImpl::begin_checksums() {
  PCOW_TRY(begin_writing(/*new_generation=*/false));  // the content stays
  if (keeps_checksums()) return {};
  // Another version has written since they were made.
  const auto forget = [this](const ChunkTable& table) -> Result<void> {
    PCOW_TRY_ASSIGN(const Block* page, store_.raw_page(checksums_of(table)));
    if (is_zero(page->bytes)) return {};
    return with_transaction([&]() -> Result<void> {
      PCOW_TRY(store_.erase_page(checksums_of(table)));
      return commit_transaction();
    });
  };
  if ((superblocks_.current().compatible & format::kCompatibleDataChecksums) != 0) {
    PCOW_TRY(for_each_frozen_table(forget));
    PCOW_TRY_ASSIGN(const LayerRecord active, layer());
    for (GibIndex gib(0); gib.value * kGiB < active.virtual_size; ++gib) {
      PCOW_TRY_ASSIGN(const uint64_t offset, table_entry(active, gib));
      PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, table_at(offset, gib));
      if (table) PCOW_TRY(forget(*table));
    }
  }
  PCOW_TRY(media_->flush());
  format::Superblock next = superblocks_.current();
  next.compatible = next.compatible | format::kCompatibleDataChecksums;
  next.autoclear = next.autoclear | format::kAutoclearDataChecksumsValid;
  return update_superblock(next);
}

// The pages of a chunk that the table owns, as they are in its window.
Result<uint32_t> ImageImpl::data_crc(const format::ChunkEntry& entry, const PageMap& owned) const {
  std::vector<std::byte> window(kWindowSize);
  PCOW_TRY(media_->read(entry.window, window));
  uint32_t crc = 0;
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if (owned[page]) crc = crc32c(std::span(window).subspan(page * kPageSize, kPageSize), crc);
  }
  return crc;
}

// A transaction, if any are missing. Returns the pages that they cover.
Result<uint64_t> ImageImpl::add_checksums_of(const ChunkTable& table) {
  ChunkEntries entries;
  PCOW_TRY(table.read_entries(entries));
  Block page;
  PCOW_TRY(store_.peek(checksums_of(table), page.bytes));
  uint64_t pages = 0;
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const format::ChunkEntry& entry = entries.entry(chunk);
    DataChecksum& checksum = checksums_in(page)[chunk];
    if (entry.owned_pages == 0 || !(checksum == DataChecksum{})) continue;
    PCOW_TRY_ASSIGN(const format::PageMapBytes map, table.page_map(chunk, entry));
    PCOW_TRY_ASSIGN(const uint32_t crc, data_crc(entry, to_page_map(map)));
    checksum = format::seal_data_checksum(crc, table.offset(), chunk, entry.map_crc);
    pages += entry.owned_pages;
  }
  if (pages == 0) return pages;
  PCOW_TRY(with_transaction([&]() -> Result<void> {
    PCOW_TRY_ASSIGN(Block * there, store_.modify_raw_page(checksums_of(table)));
    *there = page;
    return commit_transaction();
  }));
  return pages;
}

Result<uint64_t> ImageImpl::add_checksums(const Progress& progress) {
  PCOW_TRY(check_writable());
  std::vector<ChunkTable> tables;
  PCOW_TRY(for_each_frozen_table([&](const ChunkTable& table) -> Result<void> {
    tables.push_back(table);
    return {};
  }));
  if (tables.empty()) return uint64_t{0};
  PCOW_TRY(begin_checksums());
  uint64_t pages = 0;
  for (size_t n = 0; n < tables.size(); ++n) {
    PCOW_TRY_ASSIGN(const uint64_t added, add_checksums_of(tables[n]));
    pages += added;
    if (progress) progress(n + 1, tables.size());
  }
  return pages;
}

Result<uint64_t> add_checksums(const std::string& path, const Progress& progress) {
  return memory_checked(path, [&]() -> Result<uint64_t> {
    OpenOptions options;
    options.access = Access::kReadWrite;
    options.base = BaseAccess::kIgnore;  // it has checksums of its own, or none
    OpenFiles files;
    PCOW_TRY_ASSIGN(const std::unique_ptr<Image> image, ImageImpl::open_impl(path, options, files));
    PCOW_TRY_ASSIGN(const uint64_t pages, static_cast<ImageImpl&>(*image).add_checksums(progress));
    PCOW_TRY(image->close());
    return pages;
  });
}

}  // namespace pcow
