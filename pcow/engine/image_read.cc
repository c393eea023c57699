// SPDX-License-Identifier: BSD-3-Clause
//
// Look-ups: from guest offset to layer table, chunk tables, page maps and windows.
#include <algorithm>
#include <cstring>

#include "pcow/base/printable.h"
#include "pcow/engine/image_impl.h"
#include "pcow/engine/page_runs.h"

namespace pcow {

using format::BlockType;

Result<const format::RootBlock*> ImageImpl::root() const {
  PCOW_TRY_ASSIGN(const format::Block* block, store_.block(format::kRootOffset, BlockType::kRoot));
  return &block->as<format::RootBlock>();
}

Result<uint64_t> ImageImpl::layer_place() const {
  if (snapshot_place_) return *snapshot_place_;
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  return uint64_t{root_block->active_record};
}

Result<format::LayerRecord> ImageImpl::layer() const {
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  return layers_.read(place);
}

uint64_t ImageImpl::image_end() const {
  const auto root_block = root();
  return root_block ? (*root_block)->segment_count * kSegmentSize : 0;
}

Result<uint64_t> ImageImpl::table_entry(const format::LayerRecord& record, GibIndex gib) const {
  const uint64_t slot = record.tables[gib.value / format::kGibsPerSlot];
  const uint64_t block = gib.value % format::kGibsPerSlot / format::kGibsPerBlock;
  PCOW_TRY_ASSIGN(const format::Block* table_block,
                  store_.block(slot + block * format::kBlockSize, BlockType::kLayerTable));
  return uint64_t{
      table_block->as<format::LayerTableBlock>().chunk_tables[gib.value % format::kGibsPerBlock]};
}

Result<bool> ImageImpl::has_table_block(const format::LayerRecord& record, GibIndex gib) const {
  const uint64_t slot = record.tables[gib.value / format::kGibsPerSlot];
  if (slot == 0) return false;
  if (auto valid = validate_layer(record); !valid) {
    store_.report_damage();
    return valid.error();
  }
  const uint64_t block = gib.value % format::kGibsPerSlot / format::kGibsPerBlock;
  format::Block content;
  PCOW_TRY(store_.peek(slot + block * format::kBlockSize, content.bytes));
  return content != format::Block{};
}

Result<std::optional<ChunkTable>> ImageImpl::table_at(uint64_t offset, GibIndex gib) const {
  if (offset == 0) return std::optional<ChunkTable>();
  const uint64_t end = image_end();
  if (offset % format::kSlotSize != 0 || offset < format::kRootOffset || offset >= end) {
    store_.report_damage();
    return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                          "' is damaged: the layer table points outside the image "
                                          "for guest GiB " +
                                          std::to_string(gib.value) +
                                          "; see 'pcow-img check', restore the file from a copy");
  }
  return std::optional<ChunkTable>(
      ChunkTable(store_, superblocks_.current().uuid, offset, gib, end, media_->file().path()));
}

Result<std::optional<ChunkTable>> ImageImpl::chunk_table(GibIndex gib) const {
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  PCOW_TRY_ASSIGN(const uint64_t offset, table_entry(record, gib));
  return table_at(offset, gib);
}

// The next older table of a look-up. `steps` counts them: no look-up goes through more tables than
// there are layers (FORMAT.md, section 9), so more of them go round in a circle.
Result<std::optional<ChunkTable>> ImageImpl::parent_of(const format::ChunkTableHeader& header,
                                                       GibIndex gib, uint64_t& steps) const {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  if (++steps >= root_block->layer_count && header.parent != 0) {
    store_.report_damage();
    return make_error(Code::kCorrupt,
                      "'" + media_->file().path() + "' is damaged: the chunk tables of guest GiB " +
                          std::to_string(gib.value) +
                          " form a chain that is too long; see 'pcow-img check', restore the file "
                          "from a copy");
  }
  return table_at(header.parent, gib);
}

// The chunks of which the table, or one that shows through it, owns pages.
Result<ImageImpl::ChunkMap> ImageImpl::owning_chunks(std::optional<ChunkTable> table) const {
  ChunkMap owning;
  uint64_t steps = 0;
  while (table) {
    format::Block block;
    PCOW_TRY(table->read_header(block));
    const auto& header = block.as<format::ChunkTableHeader>();
    for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
      if (owns(header.owning_chunks, chunk)) owning[chunk] = true;
    }
    PCOW_TRY_ASSIGN(table, parent_of(header, table->gib(), steps));
  }
  return owning;
}

Result<void> ImageImpl::look_up(std::optional<ChunkTable> table, ChunkIndex chunk,
                                ChunkPages& found) const {
  const uint64_t in_segment = chunk_in_segment(chunk);
  uint64_t steps = 0;
  while (table) {
    ChunkEntries entries;
    PCOW_TRY(table->read_entries(entries));
    const format::ChunkEntry& entry = entries.entry(in_segment);
    PCOW_TRY_ASSIGN(const format::PageMapBytes map, table->page_map(in_segment, entry));
    for (uint64_t page = 0; entry.owned_pages != 0 && page < kPagesPerChunk; ++page) {
      if (found.owned[page] || !owns(map, page)) continue;
      found.owned[page] = true;
      found.place[page] = entry.window + page * kPageSize;
    }
    if (found.owned.all()) break;
    PCOW_TRY_ASSIGN(table, parent_of(entries.fields(), gib_of(chunk), steps));
  }
  return {};
}

Result<PageMap> ImageImpl::page_map(ChunkIndex chunk) const {
  if (chunk.value >= virtual_size_ / kChunkSize) {
    return make_error(Code::kInvalid,
                      "chunk " + std::to_string(chunk.value) + " lies beyond the end of the image");
  }
  PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib_of(chunk)));
  ChunkPages found;
  PCOW_TRY(look_up(table, chunk, found));
  return found.owned;
}

namespace {

// Merges adjacent runs before they are passed on.
class RunMerger {
 public:
  explicit RunMerger(const std::function<void(const MapExtent&)>& fn) : fn_(&fn) {}

  void add(const MapExtent& run) {
    const bool joins = pending_ && pending_->data == run.data && pending_->depth == run.depth &&
                       pending_->file == run.file && follows(run);
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
  // Whether what is pending ends in the file where `run` begins.
  bool follows(const MapExtent& run) const {
    if (!run.file_offset || !pending_->file_offset)
      return !run.file_offset && !pending_->file_offset;
    return *pending_->file_offset + pending_->length == *run.file_offset;
  }

  const std::function<void(const MapExtent&)>* fn_;
  std::optional<MapExtent> pending_;
};

}  // namespace

Result<void> ImageImpl::map_layers(uint64_t start, uint64_t length,
                                   const std::function<void(const MapExtent&)>& fn) const {
  if (start > virtual_size_ || length > virtual_size_ - start) {
    return make_error(Code::kInvalid,
                      "the range " + std::to_string(start) + " + " + std::to_string(length) +
                          " lies beyond the end of the image at " + std::to_string(virtual_size_));
  }
  RunMerger merger(fn);
  const uint64_t end = start + length;
  for (uint64_t at = start; at < end;) {
    const GibIndex gib = gib_of(ChunkIndex(at / kChunkSize));
    const uint64_t gib_end = std::min(end, (gib.value + 1) * kGiB);
    PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib));
    PCOW_TRY_ASSIGN(const ChunkMap owning, owning_chunks(table));
    while (at < gib_end) {
      const ChunkIndex chunk(at / kChunkSize);
      const uint64_t stop = std::min(end, (chunk.value + 1) * kChunkSize);
      if (!owning[chunk_in_segment(chunk)]) {
        merger.add({.start = at, .length = stop - at});
        at = stop;
        continue;
      }
      ChunkPages found;
      PCOW_TRY(look_up(table, chunk, found));
      for (; at < stop; at = std::min(stop, (at / kPageSize + 1) * kPageSize)) {
        const uint64_t page = at % kChunkSize / kPageSize;
        const uint64_t next = std::min(stop, (at / kPageSize + 1) * kPageSize);
        const bool data = found.owned[page];
        merger.add({at, next - at, data,
                    data ? std::optional(found.place[page] + at % kPageSize) : std::nullopt, 0});
      }
    }
  }
  merger.flush();
  return {};
}

Result<uint64_t> ImageImpl::base_end() const {
  if ((superblocks_.current().incompatible & format::kIncompatibleBase) == 0) return uint64_t{0};
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  return std::min<uint64_t>(record.base_size, superblocks_.current().base.base_size);
}

Error ImageImpl::base_not_open() const {
  const format::BaseReference& reference = superblocks_.current().base;
  const std::string& path = media_->file().path();
  return make_error(Code::kPermission,
                    printable("'" + path + "' is based on '" + base_path(reference, path) +
                              "', which was not opened: its content is not known"));
}

void ImageImpl::split_at_files(const MapExtent& run,
                               const std::function<void(const MapExtent&)>& fn) const {
  if (!run.data) return fn(run);
  MapExtent part = run;
  for (uint64_t done = 0; done < run.length; done += part.length) {
    const ImageFile::Place at = media_->file().place(*run.file_offset + done);
    part.start = run.start + done;
    part.length = std::min(run.length - done, at.length);
    part.file_offset = at.offset;
    part.file = at.file;
    fn(part);
  }
}

// A base that was not opened shows as data without a place.
Result<void> ImageImpl::map(uint64_t start, uint64_t length,
                            const std::function<void(const MapExtent&)>& fn) const {
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  if (end_of_base == 0) {
    return map_layers(start, length, [&](const MapExtent& run) { split_at_files(run, fn); });
  }
  RunMerger merger(fn);
  Result<void> result;
  const auto add = [&](const MapExtent& run) { merger.add(run); };
  const auto fill_in = [&](const MapExtent& run) {
    const uint64_t end = run.start + run.length;
    const uint64_t from_base = std::min(round_up(end_of_base, kPageSize), end);
    if (run.data || run.start >= from_base) return split_at_files(run, add);
    const uint64_t base_length = from_base - run.start;
    if (result && base_) {
      result = base_->map(run.start, base_length, [&](MapExtent extent) {
        ++extent.depth;
        if (extent.data) extent.file += own_files();
        merger.add(extent);
      });
    } else {
      merger.add({.start = run.start, .length = base_length, .data = true, .depth = 1});
    }
    if (end > from_base) merger.add({.start = from_base, .length = end - from_base});
  };
  PCOW_TRY(map_layers(start, length, fill_in));
  PCOW_TRY(result);
  merger.flush();
  return {};
}

// Owned pages that lie side by side in the file, as the log has them.
Result<void> ImageImpl::read_owned(uint64_t file_offset, std::span<std::byte> out) const {
  PCOW_TRY(store_.read_replayed(file_offset, out));
  return lay_over_logged(file_offset, out);
}

Result<void> ImageImpl::read(uint64_t offset, std::span<std::byte> out) const {
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  Result<void> result;
  const auto read_run = [&](const MapExtent& run) {
    if (!result) return;
    const auto part = out.subspan(run.start - offset, run.length);
    if (run.data) {
      result = read_owned(*run.file_offset, part);
      return;
    }
    if (run.start < end_of_base && !base_) {
      result = base_not_open();
    } else {
      result = BaseView{base_.get(), end_of_base}.read(run.start, part);
    }
  };
  PCOW_TRY(map_layers(offset, out.size(), read_run));
  return result;
}

MappedFile ImageImpl::file(uint32_t index) const {
  return index < own_files() ? mapped_[index] : base_->file(index - own_files());
}

void ImageImpl::add_files(ImageInfo& info) const {
  const ImageFile& file = media_->file();
  for (uint32_t index = 0; index < file.count(); ++index) {
    const File& member = file.member(index);
    info.files.push_back(member.path());
    const Result<uint64_t> disk_bytes = member.disk_bytes();
    if (!disk_bytes) info.error = disk_bytes.error();
    info.disk_bytes += disk_bytes.value_or(0);
    if (file.count() == 1) continue;
    info.stripe.push_back({index == 0 ? file.path() : stripe_.names()[index - 1], member.path(),
                           disk_bytes.value_or(0)});
  }
  info.stripe_unit = superblocks_.current().stripe_unit_windows * kWindowSize;
  if (base_) base_->add_to(info.chain, info.files);
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
  if ((sb.incompatible & format::kIncompatibleBase) != 0) {
    info.base = base_info(sb.base, base_path(sb.base, info.path));
  }
  add_files(info);
  info.granularity = media_->granularity();
  info.clean = was_clean_;
  info.marked_corrupt = (sb.state & format::kStateCorrupt) != 0;
  info.recovered = recovered_;
  info.recovery = recovery_;
  if (ahead_) info.ahead = ahead_->info();
  info.stored = media_->stored();
  info.warnings = superblocks_.warnings();
  for (const auto* more : {&stripe_.warnings(), &warnings_}) {
    info.warnings.insert(info.warnings.end(), more->begin(), more->end());
  }
  if (const auto root_block = root()) {
    info.allocated_bytes = (*root_block)->allocated_pages * kPageSize;
    info.committed_epoch = Epoch((*root_block)->committed_epoch);
    info.deleting = (*root_block)->deleting_record != 0 || (*root_block)->quarantined_segments != 0;
  } else {
    info.error = root_block.error();
  }
  return info;
}

// Lays what the log has of a page over it. A record of a page that is wholly zero need not be read.
Result<void> ImageImpl::read_logged(uint64_t place, const LoggedPages::Record& record,
                                    format::Block& page) const {
  if (!record.zero) return log_.read_record(record.lsn, place, record.mask, page);
  page = {};
  return {};
}

Result<void> ImageImpl::lay_over_logged(uint64_t offset, std::span<std::byte> out) const {
  const auto lay_over = [&](uint64_t place, const LoggedPages::Page& logged) -> Result<bool> {
    PCOW_TRY(change_page(place, offset, out, [&](format::Block& page) {
      return read_logged(place, logged.newest(), page);
    }));
    return true;
  };
  return logged_.for_each(offset / kPageSize * kPageSize, offset + out.size(), lay_over);
}

Result<PageMap> ImageImpl::logged_pages(ChunkIndex chunk) const {
  if (chunk.value >= virtual_size_ / kChunkSize) {
    return make_error(Code::kInvalid,
                      "chunk " + std::to_string(chunk.value) + " lies beyond the end of the image");
  }
  PageMap pages;
  const LogContent& replayed = store_.overlay();
  if (logged_.empty() && replayed.empty()) return pages;
  PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib_of(chunk)));
  ChunkPages found;
  PCOW_TRY(look_up(table, chunk, found));
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    const uint64_t place = found.place[page];
    pages[page] = found.owned[page] && (logged_.newest(place).mask != 0 || replayed.has(place));
  }
  return pages;
}

}  // namespace pcow
