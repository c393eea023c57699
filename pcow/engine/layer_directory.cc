// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/layer_directory.h"

namespace pcow {

using format::BlockType;
using format::LayerDirectoryBlock;
using format::LayerRecord;

bool RecordPlace::is_possible(uint64_t place, uint64_t image_end) {
  const uint64_t in_block = place % format::kBlockSize;
  return place >= format::kRootOffset + format::kSlotSize && place < image_end &&
         in_block >= sizeof(format::BlockHeader) &&
         (in_block - sizeof(format::BlockHeader)) % sizeof(LayerRecord) == 0 &&
         in_block + sizeof(LayerRecord) <= format::kBlockSize;
}

std::string_view layer_name(const LayerRecord& record) {
  return {record.name.data(), std::min<size_t>(record.name_length, format::kMaxNameLength)};
}

namespace {

Result<std::vector<uint64_t>> directory_slots(MetadataStore& store) {
  PCOW_TRY_ASSIGN(const format::Block* block, store.block(format::kRootOffset, BlockType::kRoot));
  std::vector<uint64_t> slots;
  for (const uint64_t slot : block->as<format::RootBlock>().layer_directory) {
    if (slot != 0) slots.push_back(slot);
  }
  return slots;
}

// A block that was never used is a hole.
Result<bool> is_hole(const MetadataStore& store, uint64_t offset) {
  format::Block block;
  PCOW_TRY(store.peek(offset, block.bytes));
  return block == format::Block{};
}

}  // namespace

Result<void> LayerDirectory::for_each(const Visit& visit) const {
  PCOW_TRY_ASSIGN(const std::vector<uint64_t> slots, directory_slots(*store_));
  for (const uint64_t slot : slots) {
    for (uint64_t index = 0; index < format::kBlocksPerSlot; ++index) {
      const uint64_t offset = slot + index * format::kBlockSize;
      PCOW_TRY_ASSIGN(const bool hole, is_hole(*store_, offset));
      if (hole) continue;
      PCOW_TRY_ASSIGN(const format::Block* block,
                      store_->block(offset, BlockType::kLayerDirectory));
      const auto directory = block->as<LayerDirectoryBlock>();
      for (uint64_t i = 0; i < format::kLayersPerBlock; ++i) {
        if (directory.records[i].id == 0) continue;
        PCOW_TRY(visit(RecordPlace(offset, i).offset(), directory.records[i]));
      }
    }
  }
  return {};
}

Result<std::optional<uint64_t>> LayerDirectory::find(std::string_view name) const {
  std::optional<uint64_t> found;
  const auto visit = [&](uint64_t place, const LayerRecord& record) -> Result<void> {
    const bool snapshot = (record.flags & format::kLayerFrozen) != 0 && !is_deleting(record);
    if (snapshot && layer_name(record) == name) found = place;
    return {};
  };
  PCOW_TRY(for_each(visit));
  return found;
}

Result<LayerRecord> LayerDirectory::read(uint64_t place) const {
  const RecordPlace at(place);
  PCOW_TRY_ASSIGN(const format::Block* block, store_->block(at.block, BlockType::kLayerDirectory));
  return block->as<LayerDirectoryBlock>().records[at.index];
}

Result<LayerRecord*> LayerDirectory::modify(uint64_t place) {
  const RecordPlace at(place);
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_->modify_block(at.block, BlockType::kLayerDirectory));
  return &block->as<LayerDirectoryBlock>().records[at.index];
}

Result<uint64_t> LayerDirectory::find_free() {
  for (uint64_t n = 0; n < format::kLayerDirectorySlots; ++n) {
    PCOW_TRY_ASSIGN(format::Block * root_block,
                    store_->modify_block(format::kRootOffset, BlockType::kRoot));
    Le64& slot = root_block->as<format::RootBlock>().layer_directory[n];
    if (slot == 0) {
      PCOW_TRY_ASSIGN(const uint64_t fresh, allocator_->take_slot());
      slot = fresh;
    }
    const uint64_t start = slot;
    for (uint64_t index = 0; index < format::kBlocksPerSlot; ++index) {
      const uint64_t offset = start + index * format::kBlockSize;
      PCOW_TRY_ASSIGN(const bool hole, is_hole(*store_, offset));
      if (hole) store_->create_block(offset, BlockType::kLayerDirectory, 0);
      PCOW_TRY_ASSIGN(const format::Block* block,
                      store_->block(offset, BlockType::kLayerDirectory));
      const auto& records = block->as<LayerDirectoryBlock>().records;
      for (uint64_t i = 0; i < format::kLayersPerBlock; ++i) {
        if (records[i].id == 0) return RecordPlace(offset, i).offset();
      }
    }
  }
  return make_error(Code::kNoSpace,
                    "'" + *path_ + "' holds as many snapshots as the format allows (" +
                        std::to_string(format::kMaxLayers - 1) + "); delete some first");
}

}  // namespace pcow
