// SPDX-License-Identifier: BSD-3-Clause
//
// The checker: reads an image with pread and the structure definitions, nothing of the engine, so
// that a mistake in the engine is not repeated here. Read-only.
//
// Order: superblocks, log, root, segment table, layers with their chunk tables, slot maps, then the
// file space that nothing owns. A structure whose pointers cannot be trusted is reported and not
// followed.
#pragma once

#include <pcow/image.h>
#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pcow/check/log_check.h"
#include "pcow/format/block.h"
#include "pcow/media/file.h"

namespace pcow {

class Checker {
 public:
  Checker(const File& file, bool live, const std::function<void(uint64_t, uint64_t)>& progress)
      : file_(&file), live_(live), progress_(&progress) {}

  Result<CheckReport> run();

 private:
  void corrupt(const std::string& what, uint64_t offset);
  // Like pread, with the committed log laid over; false behind the end of the file.
  Result<bool> read(uint64_t offset, std::span<std::byte> out) const;
  // Reads a block and reports what is wrong with it.
  Result<bool> read_block(uint64_t offset, format::BlockType type, const char* name,
                          format::Block& block);
  template <size_t N>
  void check_reserved(const format::Reserved<N>& bytes, const char* name, uint64_t offset) {
    if (std::any_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b != 0; })) {
      corrupt(std::string(name) + ": reserved bytes are not zero", offset);
    }
  }

  // Blocks of a slot from `first` on that hold nothing now: holes, or left by a larger past.
  Result<void> check_spare_blocks(uint64_t slot, uint64_t first, format::BlockType type,
                                  const char* name);

  bool in_image(uint64_t offset, uint64_t align, uint64_t length) const;

  Result<void> check_superblocks();
  Result<void> check_superblock_fields();
  Result<void> check_log();
  Result<bool> check_root();
  void check_log_targets();
  Result<void> check_segment_table();
  void check_segment_kinds();
  Result<void> check_layer();
  Result<void> check_layer_table(const format::LayerRecord& record);
  Result<void> check_chunk_table(uint64_t offset, uint64_t gib, uint64_t layer);
  void check_chunk(const format::ChunkEntry& entry, const format::PageMapBytes& map,
                   uint64_t offset, uint64_t chunk, uint64_t segment);
  Result<void> check_slot_maps();
  Result<void> check_ownerless_space();
  bool being_trimmed(uint64_t segment, uint64_t chunk) const;
  void leak(uint64_t pages, const std::string& what, uint64_t segment);
  void claim_slot(uint64_t offset, const char* name);
  void claim_pages(uint64_t segment, uint64_t chunk, const format::PageMapBytes& map);

  const File* file_;
  bool live_;  // a writer has the image open: the dirty state is expected
  const std::function<void(uint64_t, uint64_t)>* progress_;
  uint64_t size_ = 0;
  CheckReport report_;
  std::optional<format::Superblock> superblock_;
  CommittedLog log_;
  format::RootBlock root_{};
  std::map<uint64_t, format::SegmentEntry> segments_;  // by segment index
  std::set<uint64_t> slots_in_use_;                    // image offsets
  std::map<uint64_t, uint64_t> table_of_segment_;      // image offset of segment → of its table
  std::map<uint64_t, uint64_t> gib_of_segment_;        // guest GiB, by image offset of segment
  uint64_t pages_counted_ = 0;
  // Owned pages by data segment, for the search for data nobody owns.
  std::map<uint64_t, std::vector<bool>> owned_;
};

}  // namespace pcow
