// SPDX-License-Identifier: BSD-3-Clause
//
// Look-ups: from guest offset to layer table, chunk table, page map and window.
#include <algorithm>
#include <cstring>

#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BlockType;

Result<const format::RootBlock*> ImageImpl::root() const {
  PCOW_TRY_ASSIGN(const format::Block* block, store_.block(format::kRootOffset, BlockType::kRoot));
  return &block->as<format::RootBlock>();
}

namespace {

// Where the root's active_record points to: a block of the layer directory, a record in it.
struct RecordPlace {
  explicit RecordPlace(uint64_t active_record)
      : block(active_record - active_record % format::kBlockSize),
        index((active_record - block - sizeof(format::BlockHeader)) / sizeof(format::LayerRecord)) {
  }
  uint64_t block;
  uint64_t index;
};

}  // namespace

Result<const format::LayerRecord*> ImageImpl::layer() const {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const RecordPlace place(root_block->active_record);
  PCOW_TRY_ASSIGN(const format::Block* block,
                  store_.block(place.block, BlockType::kLayerDirectory));
  return &block->as<format::LayerDirectoryBlock>().records[place.index];
}

Result<format::LayerRecord*> ImageImpl::modify_layer() {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const RecordPlace place(root_block->active_record);
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_.modify_block(place.block, BlockType::kLayerDirectory));
  return &block->as<format::LayerDirectoryBlock>().records[place.index];
}

uint64_t ImageImpl::image_end() const {
  const auto root_block = root();
  return root_block ? (*root_block)->segment_count * kSegmentSize : 0;
}

Result<std::optional<ChunkTable>> ImageImpl::chunk_table(GibIndex gib) const {
  PCOW_TRY_ASSIGN(const format::LayerRecord* record, layer());
  const uint64_t slot = record->tables[gib.value / format::kGibsPerSlot];
  const uint64_t block = gib.value % format::kGibsPerSlot / format::kGibsPerBlock;
  const uint64_t place = slot + block * format::kBlockSize;
  PCOW_TRY_ASSIGN(const format::Block* table_block, store_.block(place, BlockType::kLayerTable));
  const uint64_t offset =
      table_block->as<format::LayerTableBlock>().chunk_tables[gib.value % format::kGibsPerBlock];
  if (offset == 0) return std::optional<ChunkTable>();
  const uint64_t end = image_end();
  if (offset % format::kSlotSize != 0 || offset < format::kRootOffset || offset >= end) {
    return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                          "' is damaged: the layer table points outside the image "
                                          "for guest GiB " +
                                          std::to_string(gib.value) +
                                          "; see 'pcow-img check', restore the file from a copy");
  }
  return std::optional<ChunkTable>(
      ChunkTable(store_, superblocks_.current().uuid, offset, gib, end, media_->file().path()));
}

Result<std::optional<SegmentExtent>> ImageImpl::segment(GibIndex gib) const {
  if (first_chunk(gib).value >= virtual_size_ / kChunkSize) {
    return make_error(Code::kInvalid,
                      "GiB " + std::to_string(gib.value) + " lies beyond the end of the image");
  }
  PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib));
  if (!table) return std::optional<SegmentExtent>();
  format::Block block;
  PCOW_TRY(table->read_header(block));
  const auto& header = block.as<format::ChunkTableHeader>();
  SegmentExtent extent;
  extent.file_offset = header.segment;
  const uint64_t count =
      std::min(kChunksPerSegment, virtual_size_ / kChunkSize - first_chunk(gib).value);
  for (uint64_t chunk = 0; chunk < count; ++chunk) {
    extent.owning_chunks[chunk] = owns(header.owning_chunks, chunk);
  }
  return std::optional<SegmentExtent>(extent);
}

Result<ImageImpl::ChunkLookup> ImageImpl::look_up(ChunkTable& table, ChunkIndex chunk) const {
  ChunkEntries entries;
  PCOW_TRY(table.read_entries(entries));
  ChunkLookup found;
  found.entry = entries.entry(chunk_in_segment(chunk));
  PCOW_TRY_ASSIGN(found.map, table.page_map(chunk_in_segment(chunk), found.entry));
  return found;
}

Result<PageMap> ImageImpl::page_map(ChunkIndex chunk) const {
  if (chunk.value >= virtual_size_ / kChunkSize) {
    return make_error(Code::kInvalid,
                      "chunk " + std::to_string(chunk.value) + " lies beyond the end of the image");
  }
  PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, chunk_table(gib_of(chunk)));
  if (!table) return PageMap();
  PCOW_TRY_ASSIGN(const ChunkLookup found, look_up(*table, chunk));
  return to_page_map(found.map);
}

namespace {

// Merges adjacent runs before they are passed on.
class RunMerger {
 public:
  explicit RunMerger(const std::function<void(const MapExtent&)>& fn) : fn_(&fn) {}

  void add(const MapExtent& run) {
    const bool joins = pending_ && pending_->data == run.data &&
                       (!run.data || *pending_->file_offset + pending_->length == *run.file_offset);
    if (joins) {
      pending_->length += run.length;
      return;
    }
    flush();
    pending_ = run;
  }
  void flush() {
    if (pending_) (*fn_)(*pending_);
    pending_.reset();
  }

 private:
  const std::function<void(const MapExtent&)>* fn_;
  std::optional<MapExtent> pending_;
};

}  // namespace

Result<void> ImageImpl::map(uint64_t start, uint64_t length,
                            const std::function<void(const MapExtent&)>& fn) const {
  if (start > virtual_size_ || length > virtual_size_ - start) {
    return make_error(Code::kInvalid,
                      "the range " + std::to_string(start) + " + " + std::to_string(length) +
                          " lies beyond the end of the image at " + std::to_string(virtual_size_));
  }
  RunMerger merger(fn);
  uint64_t at = start;
  const uint64_t end = start + length;
  while (at < end) {
    const ChunkIndex chunk(at / kChunkSize);
    const GibIndex gib = gib_of(chunk);
    PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, chunk_table(gib));
    if (!table) {
      const uint64_t stop = std::min(end, (gib.value + 1) * kGiB);
      merger.add({at, stop - at, false, std::nullopt});
      at = stop;
      continue;
    }
    PCOW_TRY_ASSIGN(const ChunkLookup found, look_up(*table, chunk));
    const uint64_t stop = std::min(end, (chunk.value + 1) * kChunkSize);
    while (at < stop) {
      const bool data = owns(found.map, at % kChunkSize / kPageSize);
      const uint64_t next = std::min(stop, (at / kPageSize + 1) * kPageSize);
      merger.add({at, next - at, data,
                  data ? std::optional(found.entry.window + at % kChunkSize) : std::nullopt});
      at = next;
    }
  }
  merger.flush();
  return {};
}

Result<void> ImageImpl::read(uint64_t offset, std::span<std::byte> out) const {
  Result<void> result;
  PCOW_TRY(map(offset, out.size(), [&](const MapExtent& run) {
    const auto part = out.subspan(run.start - offset, run.length);
    if (!run.data) {
      std::memset(part.data(), 0, part.size());
    } else if (result) {
      result = media_->read(*run.file_offset, part);
    }
  }));
  return result;
}

ImageInfo ImageImpl::info() const {
  const format::Superblock& sb = superblocks_.current();
  ImageInfo info;
  info.path = media_->file().path();
  info.uuid = format::uuid_text(sb.uuid);
  info.format_version = sb.version;
  info.generation = sb.generation;
  info.virtual_size = virtual_size_;
  info.log_size = sb.log_size;
  info.granularity = media_->granularity();
  info.clean = was_clean_;
  info.recovered = recovered_;
  info.warnings = superblocks_.warnings();
  if (const auto root_block = root()) {
    info.allocated_bytes = (*root_block)->allocated_pages * kPageSize;
    info.committed_epoch = Epoch((*root_block)->committed_epoch);
  }
  info.disk_bytes = media_->file().disk_bytes().value_or(0);
  return info;
}

}  // namespace pcow
