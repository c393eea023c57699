// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with checksums of data (FORMAT.md, section 9): whether they
// are ones, and, for a scrub, whether the data fits them.
#include <bit>

#include "pcow/base/crc32c.h"
#include "pcow/base/no_memory.h"
#include "pcow/check/checker.h"

namespace pcow {

using format::Block;
using format::DataChecksum;

// Checksums say nothing that is not in the data: a damaged one is dropped.
Result<void> Checker::check_checksums(uint64_t offset, const Table& table, ChunkPages& chunks) {
  const uint64_t place = offset + format::kDataChecksumsOffset;
  const bool valid = (superblock_->compatible & format::kCompatibleDataChecksums) != 0 &&
                     (superblock_->autoclear & format::kAutoclearDataChecksumsValid) != 0;
  Block page;
  if (valid) PCOW_TRY(read(place, page.bytes));
  auto* checksums = reinterpret_cast<DataChecksum*>(page.bytes.data());
  bool changed = false;
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    DataChecksum& checksum = checksums[chunk];
    const format::ChunkEntry& entry = chunks.entry(chunk);
    const uint64_t pages = entry.owned_pages;
    if (checksum == DataChecksum{}) {
      (table.layer == root_.active_layer ? scrub_.active_pages : scrub_.unverified_pages) += pages;
      continue;
    }
    const DataChecksum wanted =
        format::seal_data_checksum(checksum.data_crc, offset, chunk, entry.map_crc);
    const bool frozen = table.layer != root_.active_layer;
    if (!frozen || pages == 0 || !(checksum == wanted)) {
      repairable("data checksum of chunk " + std::to_string(chunk) +
                     (frozen ? ": it is none of these pages" : ": the layer takes writes"),
                 place + chunk * sizeof(checksum));
      checksum = {};
      changed = true;
      continue;
    }
    if (with_data_) PCOW_TRY(check_data(table, chunk, chunks, checksum.data_crc));
  }
  if (changed) plan_.pages[place] = page;
  return {};
}

Result<void> Checker::check_data(const Table& table, uint64_t chunk, ChunkPages& chunks,
                                 uint32_t wanted) {
  const uint64_t window = table.segment + chunk * kWindowSize;
  std::vector<std::byte> data(kWindowSize);
  PCOW_TRY_ASSIGN(const bool there, read(window, data));
  uint32_t crc = 0;
  uint64_t pages = 0;
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if ((chunks.maps[chunk][page / 8] >> (page % 8) & 1) == 0) continue;
    crc = crc32c(std::span(data).subspan(page * kPageSize, kPageSize), crc);
    ++pages;
  }
  scrub_.verified_pages += pages;
  if (there && crc == wanted) return {};
  BadWindow bad{table.gib * kGiB + chunk * kChunkSize, kChunkSize, window, table.layer, {}};
  if (const auto layer = layers_.find(table.layer); layer != layers_.end()) {
    const format::LayerRecord& record = layer->second.record;
    const size_t length = std::min<size_t>(record.name_length, record.name.size());
    bad.snapshot.assign(record.name.data(), length);
  }
  scrub_.bad.push_back(std::move(bad));
  return {};
}

Result<ScrubReport> scrub_image(const std::string& path, const Progress& progress) {
  return memory_checked(path, [&]() -> Result<ScrubReport> {
    PCOW_TRY_ASSIGN(File file, File::open(path, File::Mode::kRead));
    PCOW_TRY(file.lock(false));
    ImageReader reader(std::move(file), false);
    Checker checker(reader, progress);
    checker.compare_data();
    PCOW_TRY_ASSIGN(CheckReport report, checker.run());
    ScrubReport scrub = checker.scrub();
    scrub.check = std::move(report);
    std::sort(scrub.bad.begin(), scrub.bad.end(),
              [](const BadWindow& a, const BadWindow& b) { return a.file_offset < b.file_offset; });
    return scrub;
  });
}

}  // namespace pcow
