// SPDX-License-Identifier: BSD-3-Clause
//
// Changing the virtual size, and giving back space.
//
// Shrinking: one transaction takes the size down, drops ownership beyond it and notes the range as
// to be trimmed; then the windows are emptied; then a second transaction clears the note. A crash
// in between leaves the note, and the next writable open empties the windows before anyone can own
// them again (FORMAT.md, section 10, "Trim").
#include <unistd.h>

#include <algorithm>
#include <cerrno>

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
  PCOW_TRY_ASSIGN(format::LayerRecord * record, modify_layer());
  const LayerId owner(record->id);
  record->virtual_size = new_size;
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

// Inside a transaction: the chunks [first, end) own nothing any more.
Result<void> ImageImpl::drop_chunks(ChunkIndex first, ChunkIndex end) {
  uint64_t dropped_pages = 0;
  for (GibIndex gib = gib_of(first); first_chunk(gib) < end; ++gib) {
    PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, chunk_table(gib));
    if (!table) continue;
    ChunkEntries entries;
    PCOW_TRY(table->read_entries(entries));
    const uint64_t from = std::max(first, first_chunk(gib)) - first_chunk(gib);
    const uint64_t to = std::min(kChunksPerSegment, end - first_chunk(gib));
    for (uint64_t chunk = from; chunk < to; ++chunk) {
      if (entries.entry(chunk).owned_pages == 0) continue;
      dropped_pages += entries.entry(chunk).owned_pages;
      PCOW_TRY(table->clear(chunk));
    }
    PCOW_TRY(table->finish());
  }
  return count_pages(0, dropped_pages);
}

Result<void> ImageImpl::finish_trim() {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const uint64_t first = root_block->trim_first_chunk;
  const uint64_t end = first + root_block->trim_chunk_count;
  if (first == end) return {};
  // The tables still name the segments of chunks beyond the virtual size.
  PCOW_TRY_ASSIGN(const format::LayerRecord* record, layer());
  const format::LayerRecord tables = *record;
  for (GibIndex gib = gib_of(ChunkIndex(first)); first_chunk(gib).value < end; ++gib) {
    const uint64_t slot = gib.value / format::kGibsPerSlot;
    if (slot >= format::kLayerTableSlots || tables.tables[slot] == 0) break;
    PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib));
    if (!table) continue;
    ChunkEntries entries;
    PCOW_TRY(table->read_entries(entries));
    const uint64_t base = first_chunk(gib).value;
    const uint64_t from = std::max(first, base) - base;
    const uint64_t to = std::min(kChunksPerSegment, end - base);
    PCOW_TRY(media_->file().punch(entries.segment_offset() + from * kWindowSize,
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

Result<void> ImageImpl::resize(uint64_t new_size, bool shrink) {
  PCOW_TRY(check_writable());
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
  if (new_size > virtual_size_) {
    // Allowed by the file system? (As at creation.)
    PCOW_TRY_ASSIGN(const uint64_t file_size, media_->file().size());
    PCOW_TRY(media_->file().extend(image_end() + round_up(new_size - virtual_size_, kSegmentSize)));
    if (ftruncate(media_->file().fd(), static_cast<off_t>(file_size)) != 0) {
      return errno_error(errno, "cannot set the size of '" + media_->file().path() + "'");
    }
  }
  // A large shrink is more than one transaction can hold: take it down in steps.
  constexpr uint64_t kStep = 16 * kGiB;
  while (virtual_size_ != new_size) {
    const uint64_t next =
        new_size > virtual_size_
            ? new_size
            : std::max(new_size,
                       virtual_size_ > kStep ? (virtual_size_ - 1) / kStep * kStep : new_size);
    const auto change_size = [&]() -> Result<void> {
      PCOW_TRY_ASSIGN(format::Block * block,
                      store_.modify_block(format::kRootOffset, BlockType::kRoot));
      auto& root_ref = block->as<format::RootBlock>();
      root_ref.virtual_size = next;
      PCOW_TRY(create_layer_tables(virtual_size_, next));
      if (next < virtual_size_) {
        root_ref.trim_first_chunk = next / kChunkSize;
        root_ref.trim_chunk_count = (virtual_size_ - next) / kChunkSize;
        PCOW_TRY(
            drop_chunks(ChunkIndex(next / kChunkSize), ChunkIndex(virtual_size_ / kChunkSize)));
      }
      return commit_transaction();
    };
    PCOW_TRY(with_transaction(change_size));
    virtual_size_ = next;
    PCOW_TRY(finish_trim());
  }
  return media_->flush();
}

// Punches the pages of a window that are not owned but take up space.
Result<uint64_t> ImageImpl::reclaim_window(uint64_t file_offset, const PageMap& owned) {
  uint64_t freed = 0;
  const uint64_t start = file_offset;
  const uint64_t end = start + kWindowSize;
  off_t at = static_cast<off_t>(start);
  while (at < static_cast<off_t>(end)) {
    const off_t data = lseek(fd(), at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    if (data < 0) return errno_error(errno, "cannot look for data in '" + info().path + "'");
    if (data >= static_cast<off_t>(end)) break;
    const off_t hole = std::min(lseek(fd(), data, SEEK_HOLE), static_cast<off_t>(end));
    if (hole < 0) return errno_error(errno, "cannot look for holes in '" + info().path + "'");
    uint64_t page = (static_cast<uint64_t>(data) - start) / kPageSize;
    const uint64_t stop = (static_cast<uint64_t>(hole) - start + kPageSize - 1) / kPageSize;
    while (page < stop) {
      uint64_t run = page;
      while (run < stop && !owned[run]) ++run;
      if (run > page) {
        PCOW_TRY(media_->file().punch(start + page * kPageSize, (run - page) * kPageSize));
        freed += (run - page) * kPageSize;
      }
      page = run + 1;
    }
    at = hole;
  }
  return freed;
}

Result<uint64_t> ImageImpl::reclaim_unowned() {
  PCOW_TRY(check_writable());
  uint64_t freed = 0;
  for (GibIndex gib(0); gib.value < gibs_in(virtual_size_); ++gib) {
    PCOW_TRY_ASSIGN(const std::optional<SegmentExtent> extent, segment(gib));
    if (!extent) continue;
    const ChunkIndex first = first_chunk(gib);
    const uint64_t count = std::min(kChunksPerSegment, virtual_size_ / kChunkSize - first.value);
    for (uint64_t chunk = 0; chunk < count; ++chunk) {
      PageMap owned;
      if (extent->owning_chunks[chunk]) {
        PCOW_TRY_ASSIGN(owned, page_map(first + chunk));
      }
      PCOW_TRY_ASSIGN(const uint64_t bytes,
                      reclaim_window(extent->file_offset + chunk * kWindowSize, owned));
      freed += bytes;
    }
  }
  return freed;
}

}  // namespace pcow
