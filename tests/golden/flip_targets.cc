// SPDX-License-Identifier: BSD-3-Clause
#include "tests/golden/flip_targets.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "pcow/format/layout.h"

namespace golden {
namespace {

namespace format = pcow::format;

template <typename T>
T read_at(int fd, uint64_t offset) {
  T value{};
  if (pread(fd, &value, sizeof(value), static_cast<off_t>(offset)) !=
      static_cast<ssize_t>(sizeof(value))) {
    std::perror("flip_bits: pread");
    std::abort();
  }
  return value;
}

// Offsets of the chunk tables of guest GiB 0, 1, ...; 0 where there is none.
std::vector<uint64_t> chunk_tables(int fd, uint64_t layer_table) {
  std::vector<uint64_t> tables;
  for (const uint64_t table : read_at<format::LayerTableBlock>(fd, layer_table).chunk_tables) {
    if (table != 0) tables.push_back(table);
  }
  return tables;
}

uint64_t first_layer_table(int fd, const format::RootBlock& root) {
  return read_at<format::LayerRecord>(fd, root.active_record).tables[0];
}

}  // namespace

std::vector<Target> metadata_targets(int image_fd) {
  const auto root = read_at<format::RootBlock>(image_fd, format::kRootOffset);
  const uint64_t layer_table = first_layer_table(image_fd, root);
  const uint64_t block = format::kBlockSize;
  std::vector<Target> targets = {
      {"superblock copy 0", format::kSuperblockOffset[0], block},
      {"superblock copy 1", format::kSuperblockOffset[1], block},
      {"root block", format::kRootOffset, block},
      {"slot map", format::kRootSlotMapOffset, block},
      {"segment table", root.segment_table[0], block},
      {"layer directory", root.layer_directory[0], block},
      {"layer table", layer_table, block},
  };
  for (const uint64_t table : chunk_tables(image_fd, layer_table)) {
    targets.push_back({"chunk table header", table, block});
    targets.push_back({"chunk entries", table + format::kChunkEntriesOffset,
                       format::kPageMapsOffset - format::kChunkEntriesOffset});
    targets.push_back({"page maps", table + format::kPageMapsOffset,
                       format::kChunkTableUsed - format::kPageMapsOffset});
  }
  return targets;
}

std::vector<Target> reserved_targets(int image_fd) {
  const auto root = read_at<format::RootBlock>(image_fd, format::kRootOffset);
  const uint64_t layer_table = first_layer_table(image_fd, root);
  const uint64_t rest = format::kSlotSize - format::kBlockSize;
  std::vector<Target> targets = {
      {"rest of the segment table slot", root.segment_table[0] + format::kBlockSize, rest},
      {"rest of the layer directory slot", root.layer_directory[0] + format::kBlockSize, rest},
      {"rest of the layer table slot", layer_table + format::kBlockSize, rest},
  };
  for (const uint64_t table : chunk_tables(image_fd, layer_table)) {
    targets.push_back({"rest of the chunk table slot", table + format::kChunkTableUsed,
                       format::kSlotSize - format::kChunkTableUsed});
  }
  return targets;
}

Target log_target(int image_fd) {
  const auto superblock = read_at<format::Superblock>(image_fd, format::kSuperblockOffset[0]);
  return {"log", superblock.log_offset, superblock.log_size};
}

}  // namespace golden
