// SPDX-License-Identifier: BSD-3-Clause
//
// The checker: reads an image with pread and the structure definitions, nothing of the engine, so
// that a mistake in the engine is not repeated here. Read-only: what can be put right is a plan.
//
// Order: superblocks, the other files of a stripe set, log, root, segment table, layers, their
// chunk tables with the file space that nothing owns, slot maps. A structure whose pointers cannot
// be trusted is reported and not followed.
#pragma once

#include <pcow/content.h>
#include <pcow/image.h>
#include <pcow/scrub.h>
#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "pcow/check/image_reader.h"
#include "pcow/check/log_check.h"
#include "pcow/check/repair_plan.h"
#include "pcow/format/block.h"

namespace pcow {

class Checker {
 public:
  Checker(ImageReader& file, const std::function<void(uint64_t, uint64_t)>& progress)
      : file_(&file), live_(file.live()), progress_(&progress) {}

  // Before run(): also compares data with its checksums.
  void compare_data() { with_data_ = true; }
  // The same: also reads the pages that the active layer owns.
  void visit_pages(const PageVisitor& visit) { visit_ = visit; }
  Result<CheckReport> run();
  // Of the image as it is once its log is replayed. REQUIRES: run() has succeeded.
  const RepairPlan& plan() const { return plan_; }
  // Without its CheckReport. REQUIRES: the same.
  const ScrubReport& scrub() const { return scrub_; }

 private:
  // Damage that nothing in the image says how to repair; and damage that `plan_` repairs.
  void corrupt(const std::string& what, uint64_t offset);
  void repairable(const std::string& what, uint64_t offset);
  void note(const std::string& message);
  // Plans a change of a block that is in order but for what `change` puts right.
  Result<void> plan_block(uint64_t offset, const std::function<void(format::Block&)>& change);
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
  void check_base_reference();
  bool check_stripe_fields() const;
  Result<void> check_log();
  Result<bool> check_root();
  Result<void> check_log_targets();
  Result<void> check_segment_table();
  Result<void> check_segment_kinds();
  void claim_slot(uint64_t offset, const char* name);

  // --- check_log_place.cc
  static bool log_place_possible(const format::Superblock& superblock);
  Result<void> check_log_segments();
  Result<bool> is_log_on_medium(uint64_t index) const;
  Result<void> check_unused_log_space();
  Result<void> check_left_by_log(uint64_t begin, uint64_t end);

  // --- check_layers.cc
  struct Layer {
    uint64_t place;  // of its record
    format::LayerRecord record;
    std::map<uint64_t, uint64_t> tables = {};  // chunk table by GiB
  };
  struct Table {
    uint64_t gib = 0;
    bool valid = false;  // its header is in order, and what follows is known
    uint64_t layer = 0;
    uint64_t parent = 0;
    uint64_t segment = 0;
    uint64_t pages = 0;
    uint64_t layers = 0;    // layer tables that name it
    uint64_t children = 0;  // tables whose parent it is
  };
  Result<void> check_layers();
  Result<void> read_directory();
  Result<void> read_directory_block(uint64_t offset);
  Result<void> check_records();
  Result<void> check_layer_count();
  Result<void> check_layer_table(Layer& layer);
  void check_layer_entries(Layer& layer, uint64_t first_gib, const format::LayerTableBlock& block);
  Table* use_table(uint64_t offset, uint64_t gib);
  Result<void> check_tables();
  void check_table_uses();
  Result<void> check_page_counts();

  // --- check_tables.cc
  using OwnedPages = std::vector<bool>;  // of a segment
  Result<void> check_chunk_table(uint64_t offset, Table& table);
  // What a chunk table says of its chunks, as it is or as it is to be.
  struct ChunkPages {
    format::Block header;
    std::array<format::Block, 2> entries;
    std::vector<format::PageMapBytes> maps;
    bool changed = false;

    format::ChunkTableHeader& fields() { return header.as<format::ChunkTableHeader>(); }
    format::ChunkEntry& entry(uint64_t chunk) {
      auto* half = reinterpret_cast<format::ChunkEntry*>(
          entries[chunk / format::kEntriesPerBlock].bytes.data());
      return half[chunk % format::kEntriesPerBlock];
    }
  };
  Result<void> check_chunks(uint64_t offset, Table& table, const format::Block& header);
  Result<bool> read_chunks(uint64_t offset, const Table& table, ChunkPages& chunks);
  bool rebuild_entries(uint64_t half, const Table& table, ChunkPages& chunks) const;
  bool check_chunk(uint64_t offset, uint64_t chunk, const Table& table, ChunkPages& chunks);
  void plan_chunks(uint64_t offset, ChunkPages& chunks);
  // Whether the window was dropped and is not emptied yet (FORMAT.md, section 10, "Trim").
  bool being_trimmed(const Table& table, uint64_t chunk) const;

  // --- check_checksums.cc
  Result<void> check_checksums(uint64_t offset, const Table& table, ChunkPages& chunks);
  Result<void> check_data(const Table& table, uint64_t chunk, ChunkPages& chunks, uint32_t wanted);

  // --- check_content.cc
  Result<void> visit_content(const Table& table, const OwnedPages& owned) const;

  // --- check_space.cc
  void check_data_segments();
  // `table`: the one that the segment is reserved for, if it is.
  Result<void> check_ownerless_space(uint64_t segment, const OwnedPages& owned, const Table* table);
  // By an epoch that was cut off (FORMAT.md, "Filling").
  bool is_being_filled(uint64_t page) const;
  Result<void> check_logged_space(uint64_t segment, const OwnedPages& owned, const Table* table);
  Result<void> check_quarantined(uint64_t index, const format::SegmentEntry& entry);
  Result<void> check_quarantined_slot(uint64_t index, uint64_t slot);
  Result<void> check_quarantine_count(uint64_t quarantined);
  void check_slot_places();
  Result<void> check_slot_maps();
  Result<void> check_slot_map(uint64_t base, uint64_t offset);
  Result<void> check_free_slots(uint64_t base, uint64_t length, const format::SlotMapBlock& map);
  Result<void> look_for_hidden_space();
  void leak(uint64_t pages, const std::string& what, uint64_t segment);
  // Calls `page` with the offset of each page of [begin, end) that takes up file space.
  Result<void> for_each_data_page(uint64_t begin, uint64_t end,
                                  const std::function<Result<void>(uint64_t)>& page) const;

  ImageReader* file_;
  bool live_;  // a writer has the image open: the dirty state is expected
  const std::function<void(uint64_t, uint64_t)>* progress_;
  uint64_t size_ = 0;
  CheckReport report_;
  RepairPlan plan_;
  bool with_data_ = false;
  PageVisitor visit_;
  ScrubReport scrub_;
  std::optional<format::Superblock> superblock_;
  CommittedLog log_;
  format::RootBlock root_{};
  std::map<uint64_t, format::SegmentEntry> segments_;  // by segment index
  std::set<uint64_t> slots_in_use_;                    // image offsets
  std::set<uint64_t> slots_given_up_;                  // of those, what quarantine waits for
  std::map<uint64_t, uint64_t> table_of_segment_;      // image offset of segment → of its table
  std::map<uint64_t, Layer> layers_;                   // by id
  std::map<uint64_t, Table> tables_;                   // by image offset
  std::vector<uint64_t> found_tables_;                 // of those, in the order they were found
};

}  // namespace pcow
