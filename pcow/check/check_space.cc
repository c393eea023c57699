// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with file space without an owner: pages of windows, free and
// quarantined segments, slots.
#include <climits>

#include "pcow/check/checker.h"

namespace pcow {

using format::Block;
using format::BlockType;
using format::SegmentKind;

Result<void> Checker::for_each_data_page(uint64_t begin, uint64_t end,
                                         const std::function<Result<void>(uint64_t)>& page) const {
  return file_->for_each_data(begin, end, [&](uint64_t data, uint64_t hole) -> Result<void> {
    for (uint64_t at = data / kPageSize * kPageSize; at < hole; at += kPageSize) {
      PCOW_TRY(page(at));
    }
    return {};
  });
}

void Checker::leak(uint64_t pages, const std::string& what, uint64_t segment) {
  if (pages == 0) return;
  report_.leaked_bytes += pages * kPageSize;
  report_.messages.push_back("leak: " + std::to_string(pages * kPageSize) + " bytes " + what +
                             " in the segment at offset " + std::to_string(segment));
}

bool Checker::is_being_filled(uint64_t page) const {
  const auto windows = log_.filling.find(page / kSegmentSize * kSegmentSize);
  if (windows == log_.filling.end()) return false;
  const uint64_t window = page % kSegmentSize / kWindowSize;
  return (windows->second.at(window / CHAR_BIT) >> window % CHAR_BIT & std::byte{1}) !=
         std::byte{0};
}

// Space that was reserved for what was never stored, and that nothing but the total tells of. It
// reads as zeros wherever it is, so all that looks like a hole can be made one. The next writer of
// an image that was not closed cleanly may still need it. A little is no leak: a page that was to
// be stored and became zero meanwhile keeps its space.
Result<void> Checker::look_for_hidden_space() {
  if (!report_.clean || live_) return {};
  PCOW_TRY_ASSIGN(const uint64_t hidden, file_->hidden_bytes());
  constexpr uint64_t kLittle = 64 * kKiB;
  constexpr uint64_t kLittleShare = 100;  // as much as thin provisioning may take besides
  PCOW_TRY_ASSIGN(const uint64_t all, file_->disk_bytes());
  if (hidden <= std::max(kLittle, all / kLittleShare)) return {};
  report_.leaked_bytes += hidden;
  report_.messages.push_back("leak: " + std::to_string(hidden) +
                             " bytes reserved that nothing was stored to");
  uint64_t hole = 0;
  const auto plan_up_to = [&](uint64_t data, uint64_t end) -> Result<void> {
    const uint64_t begin = round_up(hole, kPageSize);
    if (data > begin) plan_.add_hole(begin, data - begin);
    hole = end;
    return {};
  };
  PCOW_TRY(file_->for_each_data(0, size_, plan_up_to));
  return plan_up_to(size_, size_);
}

// The zero rule: data in pages nobody owns would become visible to the guest. Only windows of a
// trim or of an epoch that a crash cut short may hold some: the next writable open empties them
// before anyone can own them. No look-up shows such pages, so emptying them changes nothing that a
// reader sees. While a writer has the image it may be filling windows of which its log is about to
// tell.
Result<void> Checker::check_ownerless_space(uint64_t segment, const OwnedPages& owned,
                                            const Table* table) {
  uint64_t reserved_pages = 0;
  uint64_t trimmed_pages = 0;
  uint64_t filled_pages = 0;
  const auto look_at = [&](uint64_t page) -> Result<void> {
    if (owned[(page - segment) / kPageSize]) return {};
    plan_.add_hole(page, kPageSize);
    if (table != nullptr && being_trimmed(*table, (page - segment) / kWindowSize)) {
      ++trimmed_pages;
      return {};
    }
    if (live_) return {};
    if (is_being_filled(page)) {
      ++filled_pages;
      return {};
    }
    Block content;
    PCOW_TRY_ASSIGN(const bool there, read(page, content.bytes));
    if (there && !(content == Block{})) {
      repairable("a page that nothing owns holds data", page);
    } else {
      ++reserved_pages;
    }
    return {};
  };
  PCOW_TRY(for_each_data_page(segment, segment + kSegmentSize, look_at));
  PCOW_TRY(check_logged_space(segment, owned, table));
  if (live_) return {};
  leak(reserved_pages, "of zeros nothing owns", segment);
  leak(filled_pages, "of an epoch that was cut off, which the next writable open gives back,",
       segment);
  leak(trimmed_pages, "of dropped chunks, which the next writable open gives back,", segment);
  return {};
}

// The same for pages that are holes as long as the log is not replayed.
Result<void> Checker::check_logged_space(uint64_t segment, const OwnedPages& owned,
                                         const Table* table) {
  const auto look_at = [&](uint64_t page) -> Result<void> {
    if (owned[(page - segment) / kPageSize]) return {};
    if (table != nullptr && being_trimmed(*table, (page - segment) / kWindowSize)) return {};
    PCOW_TRY_ASSIGN(const bool looked_at, file_->is_data(page));
    if (looked_at) return {};
    Block content;
    PCOW_TRY_ASSIGN(const bool there, read(page, content.bytes));
    if (there && content != Block{}) corrupt("log: data for a page that nothing owns", page);
    return {};
  };
  return log_.for_each_page(segment, segment + kSegmentSize, look_at);
}

void Checker::check_data_segments() {
  for (const auto& [index, entry] : segments_) {
    if (static_cast<SegmentKind>(entry.kind) != SegmentKind::kData) continue;
    const auto table = table_of_segment_.find(index * kSegmentSize);
    if (table == table_of_segment_.end() || table->second != entry.owner) {
      corrupt("segment table: segment " + std::to_string(index) +
                  " is reserved for a chunk table that does not exist",
              index * kSegmentSize);
    }
  }
}

// A writer empties no slot that holds another block than a chunk table, and then all of quarantine
// waits. A crash cannot have left one: magic and type are stored, and emptied, together. It can be
// emptied here, where it is known that nothing else refers to the slot (claim_slot()).
Result<void> Checker::check_quarantined_slot(uint64_t index, uint64_t slot) {
  Block block;
  PCOW_TRY_ASSIGN(const bool there, read(slot, block.bytes));
  const auto& header = block.as<format::ChunkTableHeader>().header;
  if (!there || header.magic != format::kBlockMagic ||
      header.type == static_cast<uint16_t>(BlockType::kChunkTable)) {
    return {};
  }
  repairable("segment table: segment " + std::to_string(index) +
                 " gives up a chunk table where there is another block",
             slot);
  return {};
}

// What waits in quarantine of a closed image waits for nothing: nothing refers to it, and no log
// stores to it. Empty, it is nothing but a note for the next writer.
Result<void> Checker::check_quarantined(uint64_t index, const format::SegmentEntry& entry) {
  const uint64_t segment = index * kSegmentSize;
  if (live_) return {};
  if (entry.owner != 0) PCOW_TRY(check_quarantined_slot(index, entry.owner));
  if (!report_.clean) return {};
  uint64_t pages = 0;
  const auto count = [&](uint64_t page) -> Result<void> {
    plan_.add_hole(page, kPageSize);
    ++pages;
    return {};
  };
  PCOW_TRY(for_each_data_page(segment, segment + kSegmentSize, count));
  if (entry.owner != 0) {
    PCOW_TRY(for_each_data_page(entry.owner, entry.owner + format::kSlotSize, count));
  }
  if (pages == 0) return {};
  leak(pages, "in quarantine", segment);
  if (entry.owner != 0) slots_given_up_.insert(entry.owner);
  const uint64_t block = root_.segment_table[index / format::kSegmentsPerSlot] +
                         index % format::kSegmentsPerSlot / format::kSegmentsPerBlock * kPageSize;
  PCOW_TRY(plan_block(block, [index](Block& content) {
    content.as<format::SegmentTableBlock>().entries[index % format::kSegmentsPerBlock] = {};
  }));
  return plan_block(format::kRootOffset, [](Block& content) {
    auto& root = content.as<format::RootBlock>();
    root.quarantined_segments = root.quarantined_segments - 1;
  });
}

Result<void> Checker::check_quarantine_count(uint64_t quarantined) {
  const uint64_t said = root_.quarantined_segments;
  if (quarantined == said) return {};
  repairable("root block: " + std::to_string(quarantined) + " segments are quarantined, it says " +
                 std::to_string(said),
             format::kRootOffset);
  return plan_block(format::kRootOffset, [&](Block& content) {
    auto& root = content.as<format::RootBlock>();
    root.quarantined_segments = root.quarantined_segments + quarantined - said;
  });
}

// Metadata lies in slots of its own segments, and not where the log is: whatever is stored to a
// window, or emptied there, is not metadata.
void Checker::check_slot_places() {
  for (const uint64_t slot : slots_in_use_) {
    const auto segment = segments_.find(slot / kSegmentSize);
    const bool known = segment != segments_.end();
    const bool metadata =
        known && static_cast<SegmentKind>(segment->second.kind) == SegmentKind::kMetadata &&
        slot % kSegmentSize != 0;
    const uint64_t log = superblock_->log_offset;
    const bool in_header = slot < format::kLogOffset &&
                           (slot + format::kSlotSize <= log || slot >= log + superblock_->log_size);
    if (!metadata && !in_header) corrupt("a slot of metadata where none can be", slot);
  }
}

Result<void> Checker::check_slot_maps() {
  check_slot_places();
  for (const auto& [index, entry] : segments_) {
    if (index == 0) {
      PCOW_TRY(check_slot_map(0, format::kRootSlotMapOffset));
    } else if (static_cast<SegmentKind>(entry.kind) == SegmentKind::kMetadata) {
      PCOW_TRY(check_slot_map(index * kSegmentSize, index * kSegmentSize));
    }
  }
  return {};
}

// All of a slot map follows from what refers to slots.
Result<void> Checker::check_slot_map(uint64_t base, uint64_t offset) {
  Block block;
  PCOW_TRY_ASSIGN(const bool there, read(offset, block.bytes));
  const std::string defect =
      there ? format::block_defect(block, BlockType::kSlotMap, offset, superblock_->uuid)
            : "past the end";
  const bool readable = defect.empty();
  if (readable) {
    check_reserved(block.as<format::SlotMapBlock>().reserved, "slot map", offset);
  } else {
    repairable("slot map: " + defect, offset);
    block = {};
    format::init_header(block, BlockType::kSlotMap, offset, 0, superblock_->uuid);
  }
  const auto said = block.as<format::SlotMapBlock>();
  auto& map = block.as<format::SlotMapBlock>();
  for (uint64_t slot = 0; slot < format::kSlotsPerSegment; ++slot) {
    const uint64_t place = base + slot * format::kSlotSize;
    const auto bit = static_cast<uint8_t>(1u << (slot % 8));
    const bool marked = (said.used[slot / 8] & bit) != 0;
    // Slots that are not for metadata: the superblocks, and all from the log on.
    const bool fixed =
        base == 0 ? slot < format::kRootOffset / format::kSlotSize || place >= format::kLogOffset
                  : slot == 0;
    const bool used = fixed || slots_in_use_.contains(place);
    if (used && !marked && readable) repairable("slot map: a slot in use is marked free", place);
    if (!used && marked) {
      report_.leaked_bytes += format::kSlotSize;
      report_.messages.push_back("leak: a slot nothing refers to at offset " +
                                 std::to_string(place));
      plan_.add_hole(place, format::kSlotSize);
    }
    uint8_t& byte = map.used[slot / 8];
    const bool stays = used && !slots_given_up_.contains(place);
    byte = static_cast<uint8_t>(stays ? byte | bit : byte & ~bit);
  }
  const format::SlotMapBlock stays = map;
  if (!readable || stays.used != said.used) {
    PCOW_TRY(plan_block(offset, [&](Block& content) { content = block; }));
  }
  if (live_) return {};
  for (size_t i = 0; i < map.used.size(); ++i) {
    map.used[i] = static_cast<uint8_t>(map.used[i] | said.used[i]);
  }
  return check_free_slots(base, base == 0 ? format::kLogOffset : kSegmentSize, map);
}

// A free slot is a hole: its next owner writes only what is not zero. The pages that may hold
// something are those with space in the file and those that the log stores to.
Result<void> Checker::check_free_slots(uint64_t base, uint64_t length,
                                       const format::SlotMapBlock& map) {
  std::set<uint64_t> pages;
  const uint64_t end = base + length;
  const auto note_page = [&pages](uint64_t page) -> Result<void> {
    pages.insert(page);
    return {};
  };
  PCOW_TRY(for_each_data_page(base, end, note_page));
  PCOW_TRY(log_.for_each_page(base, end, note_page));
  for (const uint64_t page : pages) {
    const uint64_t slot = (page - base) / format::kSlotSize;
    if ((map.used[slot / 8] >> (slot % 8) & 1) != 0) continue;
    Block content;
    PCOW_TRY_ASSIGN(const bool there, read(page, content.bytes));
    if (!there || content == Block{}) continue;
    repairable("slot map: a free slot holds data", page);
    plan_.add_hole(page, kPageSize);
  }
  return {};
}

}  // namespace pcow
