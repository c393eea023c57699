// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/allocator.h"

#include <algorithm>
#include <bit>

namespace pcow {
namespace {

using format::BlockType;
using format::SegmentEntry;
using format::SegmentKind;

struct EntryPlace {
  uint64_t slot;   // index into the root's list
  uint64_t block;  // within the slot
  uint64_t entry;  // within the block
};

EntryPlace place_of(SegmentIndex segment) {
  return {segment.value / format::kSegmentsPerSlot,
          segment.value % format::kSegmentsPerSlot / format::kSegmentsPerBlock,
          segment.value % format::kSegmentsPerBlock};
}

// The others are always marked in use: superblocks, root, slot maps, and all from the log on.
bool is_for_metadata(SegmentIndex segment, uint64_t slot) {
  if (segment.value != 0) return slot > 0;
  return slot > format::kRootOffset / format::kSlotSize &&
         slot < format::kLogOffset / format::kSlotSize;
}

}  // namespace

Result<uint64_t> Allocator::take_slot_from(SegmentIndex segment, uint64_t map_offset) {
  PCOW_TRY_ASSIGN(const format::Block* look, store_->block(map_offset, BlockType::kSlotMap));
  const auto& used = look->as<format::SlotMapBlock>().used;
  for (size_t byte = 0; byte < used.size(); ++byte) {
    if (used[byte] == 0xff) continue;
    const auto bit = static_cast<size_t>(std::countr_one(used[byte]));
    const uint64_t slot = byte * 8 + bit;
    if (!is_for_metadata(segment, slot)) {
      store_->report_damage();
      return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                            "' is damaged: its slot map at offset " +
                                            std::to_string(map_offset) +
                                            " calls a slot free that is not for metadata; see "
                                            "'pcow-img check', restore the file from a copy");
    }
    PCOW_TRY_ASSIGN(format::Block * map, store_->modify_block(map_offset, BlockType::kSlotMap));
    map->as<format::SlotMapBlock>().used[byte] |= static_cast<uint8_t>(1u << bit);
    return segment.value * kSegmentSize + slot * format::kSlotSize;
  }
  return uint64_t{0};
}

Result<uint64_t> Allocator::take_slot() {
  PCOW_TRY_ASSIGN(const uint64_t in_header,
                  take_slot_from(SegmentIndex(0), format::kRootSlotMapOffset));
  if (in_header != 0) return in_header;
  // Segment 0 is full, which takes an image of terabytes: look through the metadata segments.
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  const uint64_t segments = root->as<format::RootBlock>().segment_count;
  for (SegmentIndex segment(1); segment.value < segments; ++segment) {
    PCOW_TRY_ASSIGN(const SegmentEntry* entry, modify_entry(segment));
    if (entry->kind != static_cast<uint8_t>(SegmentKind::kMetadata)) continue;
    PCOW_TRY_ASSIGN(const uint64_t slot, take_slot_from(segment, segment.value * kSegmentSize));
    if (slot != 0) return slot;
  }
  PCOW_TRY_ASSIGN(const SegmentIndex fresh, take_segment(SegmentKind::kMetadata, 0));
  const uint64_t map_offset = fresh.value * kSegmentSize;
  store_->create_block(map_offset, BlockType::kSlotMap, 0)->as<format::SlotMapBlock>().used[0] = 1;
  return take_slot_from(fresh, map_offset);
}

Result<SegmentIndex> Allocator::take_data_segment(uint64_t owner) {
  return take_segment(SegmentKind::kData, owner);
}

Result<SegmentEntry*> Allocator::modify_entry(SegmentIndex segment) {
  const EntryPlace place = place_of(segment);
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  const uint64_t slot = root->as<format::RootBlock>().segment_table[place.slot];
  const uint64_t offset = slot + place.block * format::kBlockSize;
  PCOW_TRY_ASSIGN(format::Block * block, store_->modify_block(offset, BlockType::kSegmentTable));
  return &block->as<format::SegmentTableBlock>().entries[place.entry];
}

Result<SegmentEntry> Allocator::entry(SegmentIndex segment) const {
  const EntryPlace place = place_of(segment);
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  const uint64_t slot = root->as<format::RootBlock>().segment_table[place.slot];
  PCOW_TRY_ASSIGN(const format::Block* block,
                  store_->block(slot + place.block * format::kBlockSize, BlockType::kSegmentTable));
  return block->as<format::SegmentTableBlock>().entries[place.entry];
}

// The first free segment, or the count of segments.
Result<SegmentIndex> Allocator::find_free_segment() {
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  const SegmentIndex end(root->as<format::RootBlock>().segment_count);
  for (; free_hint_ < end; ++free_hint_) {
    PCOW_TRY_ASSIGN(const SegmentEntry there, entry(free_hint_));
    if (there.kind == static_cast<uint8_t>(SegmentKind::kFree)) break;
  }
  return free_hint_;
}

Result<bool> Allocator::can_be_slot(uint64_t offset) const {
  const SegmentIndex segment(offset / kSegmentSize);
  if (offset % format::kSlotSize != 0 ||
      !is_for_metadata(segment, offset % kSegmentSize / format::kSlotSize)) {
    return false;
  }
  if (segment.value == 0) return true;
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  if (segment.value >= root->as<format::RootBlock>().segment_count) return false;
  PCOW_TRY_ASSIGN(const SegmentEntry there, entry(segment));
  return there.kind == static_cast<uint8_t>(SegmentKind::kMetadata);
}

Result<void> Allocator::pass_on(SegmentIndex segment, uint64_t owner) {
  PCOW_TRY_ASSIGN(SegmentEntry * entry, modify_entry(segment));
  entry->owner = owner;
  return {};
}

Result<void> Allocator::quarantine(SegmentIndex segment, uint64_t table, Epoch epoch) {
  PCOW_TRY_ASSIGN(SegmentEntry * entry, modify_entry(segment));
  *entry = SegmentEntry{};
  entry->kind = static_cast<uint8_t>(SegmentKind::kQuarantined);
  entry->owner = table;
  entry->epoch = epoch.value;
  PCOW_TRY_ASSIGN(format::Block * root,
                  store_->modify_block(format::kRootOffset, BlockType::kRoot));
  Le64& count = root->as<format::RootBlock>().quarantined_segments;
  count = count + 1;
  return {};
}

Result<std::vector<Allocator::Quarantined>> Allocator::quarantined(size_t count) const {
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  const SegmentIndex end(root->as<format::RootBlock>().segment_count);
  std::vector<Quarantined> found;
  for (SegmentIndex segment(1); segment < end && found.size() < count; ++segment) {
    PCOW_TRY_ASSIGN(const SegmentEntry there, entry(segment));
    if (there.kind != static_cast<uint8_t>(SegmentKind::kQuarantined)) continue;
    found.push_back({segment, there.owner});
  }
  return found;
}

Result<void> Allocator::free(const Quarantined& item) {
  PCOW_TRY_ASSIGN(SegmentEntry * entry, modify_entry(item.segment));
  *entry = SegmentEntry{};
  free_hint_ = std::min(free_hint_, item.segment);
  PCOW_TRY_ASSIGN(format::Block * root,
                  store_->modify_block(format::kRootOffset, BlockType::kRoot));
  Le64& count = root->as<format::RootBlock>().quarantined_segments;
  count = count - 1;
  return item.table == 0 ? Result<void>() : free_slot(item.table);
}

Result<void> Allocator::free_slot(uint64_t slot) {
  const uint64_t segment = slot / kSegmentSize;
  const uint64_t map_offset = segment == 0 ? format::kRootSlotMapOffset : segment * kSegmentSize;
  const uint64_t index = slot % kSegmentSize / format::kSlotSize;
  PCOW_TRY_ASSIGN(format::Block * map, store_->modify_block(map_offset, BlockType::kSlotMap));
  uint8_t& byte = map->as<format::SlotMapBlock>().used[index / 8];
  byte = static_cast<uint8_t>(byte & ~(1u << (index % 8)));
  return {};
}

Result<void> Allocator::set_entry(SegmentIndex segment, SegmentKind kind, uint64_t owner) {
  PCOW_TRY_ASSIGN(SegmentEntry * entry, modify_entry(segment));
  *entry = SegmentEntry{};
  entry->kind = static_cast<uint8_t>(kind);
  entry->owner = owner;
  return {};
}

Result<SegmentIndex> Allocator::take_segment(SegmentKind kind, uint64_t owner) {
  PCOW_TRY_ASSIGN(const SegmentIndex reused, find_free_segment());
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  if (reused.value >= root->as<format::RootBlock>().segment_count) {
    return append_segment(kind, owner);
  }
  PCOW_TRY(set_entry(reused, kind, owner));
  return reused;
}

// At the end of image space.
Result<SegmentIndex> Allocator::append_segment(SegmentKind kind, uint64_t owner) {
  PCOW_TRY_ASSIGN(format::Block * root_block,
                  store_->modify_block(format::kRootOffset, BlockType::kRoot));
  auto& root = root_block->as<format::RootBlock>();
  const SegmentIndex segment(root.segment_count);
  if (segment.value >= format::kMaxSegments) {
    return make_error(Code::kNoSpace, "'" + media_->file().path() +
                                          "' has reached the largest number of segments the format "
                                          "allows; use a smaller virtual size");
  }
  // A file may be longer than its segments, and hold what a crash, or its maker, has left there.
  const uint64_t start = segment.value * kSegmentSize;
  PCOW_TRY_ASSIGN(const bool longer, media_->file().reaches_behind(start));
  if (longer) PCOW_TRY(media_->file().punch(start, kSegmentSize));
  PCOW_TRY(media_->file().extend(start + kSegmentSize));
  // Durable before the transaction may be: without its length the file does not open.
  PCOW_TRY(media_->file().sync());
  root.segment_count = segment.value + 1;

  const EntryPlace place = place_of(segment);
  if (root.segment_table[place.slot] == 0) {
    PCOW_TRY_ASSIGN(const uint64_t slot, take_slot());
    root.segment_table[place.slot] = slot;
  }
  if (place.entry == 0) {
    store_->create_block(root.segment_table[place.slot] + place.block * format::kBlockSize,
                         BlockType::kSegmentTable, 0);
  }
  PCOW_TRY(set_entry(segment, kind, owner));
  return segment;
}

Result<SegmentIndex> Allocator::take_log_segments() {
  PCOW_TRY_ASSIGN(const format::Block* root, store_->block(format::kRootOffset, BlockType::kRoot));
  const SegmentIndex end(root->as<format::RootBlock>().segment_count);
  uint64_t run = 0;
  for (SegmentIndex segment(1); segment < end; ++segment) {
    PCOW_TRY_ASSIGN(const SegmentEntry there, entry(segment));
    run = there.kind == static_cast<uint8_t>(SegmentKind::kLog) ? run + 1 : 0;
    if (run == format::kLogSegments) return SegmentIndex(segment.value + 1 - run);
  }
  PCOW_TRY_ASSIGN(const SegmentIndex first, append_segment(SegmentKind::kLog, 0));
  for (uint64_t count = 1; count < format::kLogSegments; ++count) {
    PCOW_TRY(append_segment(SegmentKind::kLog, 0));
  }
  return first;
}

}  // namespace pcow
