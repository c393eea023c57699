// SPDX-License-Identifier: BSD-3-Clause
//
// Changing the virtual size.
//
// Shrinking: one transaction takes the size down, drops ownership beyond it and notes the range as
// to be trimmed; then the windows are emptied; then a second transaction clears the note. A crash
// in between leaves the note, and the next writable open empties the windows before anyone can own
// them again (FORMAT.md, section 10, "Trim"). What older layers hold beyond the end is not touched;
// growing hides it, in the transaction that takes the size up.
#include <algorithm>
#include <limits>

#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BlockType;

namespace {

uint64_t gibs_in(uint64_t size) { return (size + kGiB - 1) / kGiB; }
uint64_t table_blocks_in(uint64_t size) {
  return (gibs_in(size) + format::kGibsPerBlock - 1) / format::kGibsPerBlock;
}

}  // namespace

// Inside a transaction: the blocks of the layer table between two sizes.
Result<void> ImageImpl::create_layer_tables(uint64_t old_size, uint64_t new_size) {
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  PCOW_TRY_ASSIGN(format::LayerRecord * record, layers_.modify(place));
  const LayerId owner(record->id);
  record->virtual_size = new_size;
  record->base_size = std::min<uint64_t>(record->base_size, new_size);  // for good
  for (uint64_t block = table_blocks_in(old_size); block < table_blocks_in(new_size); ++block) {
    auto& slot = record->tables[block / format::kBlocksPerSlot];
    if (slot == 0) {
      PCOW_TRY_ASSIGN(const uint64_t fresh, allocator_.take_slot());
      slot = fresh;
    }
    // A block that an earlier, larger size needed is still there and still right.
    const uint64_t offset = slot + block % format::kBlocksPerSlot * format::kBlockSize;
    format::Block there;
    PCOW_TRY(store_.peek(offset, there.bytes));
    if (there == format::Block{}) {
      store_.create_block(offset, BlockType::kLayerTable, owner.value);
    }
  }
  return {};
}

// Inside a transaction: the chunks [first, end) own nothing any more, in the active layer.
Result<void> ImageImpl::drop_chunks(ChunkIndex first, ChunkIndex end) {
  uint64_t dropped_pages = 0;
  for (GibIndex gib = gib_of(first); first_chunk(gib) < end; ++gib) {
    GibWriter writer;
    PCOW_TRY(plan_gib(gib, writer));
    if (!writer.own) continue;
    const uint64_t from = std::max(first, first_chunk(gib)) - first_chunk(gib);
    const uint64_t to = std::min(kChunksPerSegment, end - first_chunk(gib));
    for (uint64_t chunk = from; chunk < to; ++chunk) {
      if (writer.entries.entry(chunk).owned_pages == 0) continue;
      dropped_pages += writer.entries.entry(chunk).owned_pages;
      PCOW_TRY(writer.own->clear(chunk));
    }
    PCOW_TRY(writer.own->finish());
  }
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  return count_pages(place, 0, dropped_pages);
}

// Inside a transaction.
Result<void> ImageImpl::note_trim(ChunkIndex first, ChunkIndex end) {
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  auto& root_ref = block->as<format::RootBlock>();
  root_ref.trim_first_chunk = first.value;
  root_ref.trim_chunk_count = end - first;
  merging_.reset();  // pages that were copied are dropped
  return drop_chunks(first, end);
}

// Whether nobody owns anything in the chunks [first, end) of the GiB whose table `own` is. Windows
// are emptied by their place in its segment, which no other table may have.
Result<bool> ImageImpl::may_trim(const GibWriter& own, ChunkIndex first, ChunkIndex end) const {
  const GibIndex gib = own.own->gib();
  const uint64_t from = std::max(first, first_chunk(gib)) - first_chunk(gib);
  const uint64_t to = std::min(kChunksPerSegment, end - first_chunk(gib));
  const auto owns_some = [&](const ChunkEntries& entries) {
    for (uint64_t chunk = from; chunk < to; ++chunk) {
      if (entries.entry(chunk).owned_pages != 0) return true;
    }
    return false;
  };
  const SegmentIndex segment(own.entries.segment_offset() / kSegmentSize);
  PCOW_TRY_ASSIGN(const format::SegmentEntry entry, allocator_.entry(segment));
  if (entry.kind != static_cast<uint8_t>(format::SegmentKind::kData) ||
      entry.owner != own.own->offset() || owns_some(own.entries)) {
    return false;
  }
  PCOW_TRY_ASSIGN(const auto uses, uses_of(gib, 0));
  for (const auto& [offset, use] : uses) {
    if (offset == own.own->offset()) continue;
    PCOW_TRY_ASSIGN(const std::optional<ChunkTable> other, table_at(offset, gib));
    ChunkEntries entries;
    PCOW_TRY(other->read_entries(entries));
    if (entries.segment_offset() == own.entries.segment_offset() && owns_some(entries)) {
      return false;
    }
  }
  return true;
}

// Part of opening, before anything is stored. The note of a trim and what it says was dropped come
// with one transaction, so that chunks that are owned all the same are damage.
Result<void> ImageImpl::validate_trim() const {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const ChunkIndex first(root_block->trim_first_chunk);
  const ChunkIndex end(first.value + root_block->trim_chunk_count);
  if (first == end) return {};
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  for (GibIndex gib = gib_of(first); first_chunk(gib) < end; ++gib) {
    const uint64_t slot = gib.value / format::kGibsPerSlot;
    if (slot >= format::kLayerTableSlots || record.tables[slot] == 0) break;
    GibWriter writer;
    PCOW_TRY(plan_gib(gib, writer));
    if (!writer.own) continue;
    PCOW_TRY_ASSIGN(const bool ok, may_trim(writer, first, end));
    if (ok) continue;
    return make_error(Code::kCorrupt,
                      "'" + media_->file().path() + "' is damaged: chunks of guest GiB " +
                          std::to_string(gib.value) +
                          " are to be emptied and hold content; nothing was changed: see "
                          "'pcow-img check', restore the file from a copy");
  }
  return {};
}

Result<void> ImageImpl::finish_trim() {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const uint64_t first = root_block->trim_first_chunk;
  const uint64_t end = first + root_block->trim_chunk_count;
  if (first == end) return {};
  PCOW_TRY(settle_log());
  // The tables still name the segments of chunks beyond the virtual size.
  PCOW_TRY_ASSIGN(const format::LayerRecord tables, layer());
  for (GibIndex gib = gib_of(ChunkIndex(first)); first_chunk(gib).value < end; ++gib) {
    const uint64_t slot = gib.value / format::kGibsPerSlot;
    if (slot >= format::kLayerTableSlots || tables.tables[slot] == 0) break;
    GibWriter writer;
    PCOW_TRY(plan_gib(gib, writer));
    if (!writer.own) continue;
    const uint64_t base = first_chunk(gib).value;
    const uint64_t from = std::max(first, base) - base;
    const uint64_t to = std::min(kChunksPerSegment, end - base);
    PCOW_TRY(media_->file().punch(writer.entries.segment_offset() + from * kWindowSize,
                                  (to - from) * kWindowSize));
  }
  PCOW_TRY(media_->flush());
  return with_transaction([&]() -> Result<void> {
    PCOW_TRY_ASSIGN(format::Block * block,
                    store_.modify_block(format::kRootOffset, BlockType::kRoot));
    block->as<format::RootBlock>().trim_first_chunk = 0;
    block->as<format::RootBlock>().trim_chunk_count = 0;
    return commit_transaction();
  });
}

// The active layer gives up GiBs that lie beyond its end and mean nothing any more. What is its own
// alone, empty and above nothing, may stay.
Result<void> ImageImpl::release_gibs(GibIndex first, GibIndex end) {
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layers_.read(place));
  const SegmentInUse not_mapped;
  DeletionStep step{std::numeric_limits<uint64_t>::max(), not_mapped};
  for (GibIndex gib = first; gib < end; ++gib) {
    PCOW_TRY_ASSIGN(const bool there, has_table_block(record, gib));
    if (!there) continue;
    GibWriter writer;
    PCOW_TRY(plan_gib(gib, writer));
    const bool empty = writer.own && !writer.below && writer.entries.owned_pages() == 0;
    if ((writer.own || writer.below) && !empty) PCOW_TRY(release_gib(place, gib, step));
  }
  return reclaim_quarantine();
}

// Pages beyond the end that the active layer owns: it took over a table of a larger layer.
Result<void> ImageImpl::empty_beyond_end() {
  const ChunkIndex end(virtual_size_ / kChunkSize);
  const ChunkIndex gib_end = first_chunk(GibIndex(gibs_in(virtual_size_)));
  if (end == gib_end) return {};
  GibWriter writer;
  PCOW_TRY(plan_gib(gib_of(end), writer));
  bool any = false;
  for (uint64_t chunk = chunk_in_segment(end); writer.own && chunk < kChunksPerSegment; ++chunk) {
    any |= writer.entries.entry(chunk).owned_pages != 0;
  }
  if (!any) return {};
  const auto change = [&]() -> Result<void> {
    PCOW_TRY(note_trim(end, gib_end));
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  return finish_trim();
}

// Inside a transaction: what older layers hold in the chunks that are added to the last GiB does
// not show. (In whole GiBs that are added nothing does: the layer table has no entry for them.)
Result<void> ImageImpl::hide_beyond_end(uint64_t new_size) {
  const ChunkIndex first(virtual_size_ / kChunkSize);
  const ChunkIndex end(std::min(new_size / kChunkSize, gibs_in(virtual_size_) * kChunksPerSegment));
  if (first == end) return {};
  GibWriter writer;
  PCOW_TRY(plan_gib(gib_of(first), writer));
  uint64_t hidden = 0;
  for (ChunkIndex chunk = first; chunk < end; ++chunk) {
    ChunkPages lower;
    PCOW_TRY(look_up(writer.below, chunk, lower));
    if (lower.owned.none()) continue;
    if (!writer.own) PCOW_TRY(add_own_table(gib_of(first), writer));
    PCOW_TRY(writer.own->set_map(chunk_in_segment(chunk), to_map_bytes(lower.owned),
                                 writer.entries.segment_offset()));
    hidden += lower.owned.count();
  }
  if (hidden == 0) return {};
  PCOW_TRY(writer.own->finish());
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  return count_pages(place, hidden, 0);
}

Result<void> ImageImpl::set_virtual_size(uint64_t size) {
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  block->as<format::RootBlock>().virtual_size = size;
  return create_layer_tables(virtual_size_, size);
}

// Allowed by the file system? (As at creation.)
Result<void> ImageImpl::check_growth(uint64_t new_size) const {
  return media_->file().try_extend(image_end() + round_up(new_size - virtual_size_, kSegmentSize));
}

Result<void> ImageImpl::grow_to(uint64_t new_size) {
  PCOW_TRY(check_growth(new_size));
  // Entries and pages beyond the end mean nothing, until there is something beyond it.
  PCOW_TRY(release_gibs(GibIndex(gibs_in(virtual_size_)), GibIndex(gibs_in(new_size))));
  PCOW_TRY(empty_beyond_end());
  const auto change = [&]() -> Result<void> {
    PCOW_TRY(set_virtual_size(new_size));
    PCOW_TRY(hide_beyond_end(new_size));
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  virtual_size_ = new_size;
  return {};
}

Result<void> ImageImpl::shrink_to(uint64_t new_size) {
  const uint64_t old_size = virtual_size_;
  const auto change = [&]() -> Result<void> {
    PCOW_TRY(set_virtual_size(new_size));
    PCOW_TRY(note_trim(ChunkIndex(new_size / kChunkSize), ChunkIndex(old_size / kChunkSize)));
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  virtual_size_ = new_size;
  PCOW_TRY(finish_trim());
  return release_gibs(GibIndex(gibs_in(new_size)), GibIndex(gibs_in(old_size)));
}

Result<void> ImageImpl::resize(uint64_t new_size, bool shrink) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  give_back_ahead();
  if (new_size < kMinVirtualSize || new_size > kMaxVirtualSize || new_size % kChunkSize != 0) {
    return make_error(Code::kInvalid,
                      "size " + std::to_string(new_size) +
                          " is not possible: give a multiple of 2M, from 2M to 32T");
  }
  if (new_size < virtual_size_ && !shrink) {
    return make_error(Code::kInvalid,
                      "'" + media_->file().path() + "' has " + std::to_string(virtual_size_) +
                          " bytes; shrinking it to " + std::to_string(new_size) +
                          " drops what lies beyond: say --shrink if that is wanted");
  }
  // Of a shrink that failed half-way: before the dropped chunks can be had again.
  PCOW_TRY(finish_trim());
  if (new_size == virtual_size_) return {};
  if (new_size > virtual_size_) PCOW_TRY(grow_to(new_size));
  // A large shrink is more than one transaction can hold: take it down in steps.
  constexpr uint64_t kStep = 16 * kGiB;
  while (virtual_size_ != new_size) {
    const uint64_t below = virtual_size_ > kStep ? (virtual_size_ - 1) / kStep * kStep : new_size;
    PCOW_TRY(shrink_to(std::max(new_size, below)));
  }
  return media_->flush();
}

}  // namespace pcow
