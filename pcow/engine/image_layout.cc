// SPDX-License-Identifier: BSD-3-Clause
//
// How to map an image: where the windows of a GiB are, and how a chunk gets all its pages into one.
//
// A window may be mapped whole when all owned pages of its chunk lie in it: by the zero rule the
// others are zero. It may be one of the base, or of a base of that. Folding is for chunks that
// several layers, or layers and the base, have pages of: the active layer, the only one whose
// windows take pages, copies those that it lacks. A copy hides a page of the same content, so it
// goes into the log with its ownership (image_write.cc), and a crash before, in between or after
// shows the same.
#include <algorithm>
#include <utility>

#include "pcow/engine/image_impl.h"

namespace pcow {

// A table of a GiB, to look at many of its chunks.
struct ImageImpl::GibTable {
  ChunkTable table;
  ChunkEntries entries;
};

namespace {

// Of windows by image offset: the segment that all lie in, or `segment` if there are none.
std::optional<uint64_t> common_segment(const GibLayout& layout, std::optional<uint64_t> segment) {
  std::optional<uint64_t> found;
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) {
    const GibLayout::Chunk& chunk = layout.chunks.at(i);
    if (chunk.kind == GibLayout::Kind::kHole) continue;
    // Modulo 2^64: a window may lie nearer to the start of image space than the segment would.
    const uint64_t here = chunk.window.offset - i * kWindowSize;
    if (chunk.kind == GibLayout::Kind::kMixed || found.value_or(here) != here) return std::nullopt;
    found = here;
  }
  return found ? found : segment;
}

// Whether all windows lie in a segment that has parts.
bool all_in(const std::vector<FilePlace>& segment, const GibLayout& layout) {
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) {
    const GibLayout::Chunk& chunk = layout.chunks.at(i);
    if (chunk.kind == GibLayout::Kind::kHole) continue;
    if (segment.empty() || chunk.kind == GibLayout::Kind::kMixed ||
        chunk.window != place_in_segment(segment, i)) {
      return false;
    }
  }
  return true;
}

}  // namespace

FilePlace place_in_segment(const std::vector<FilePlace>& segment, uint64_t chunk) {
  const uint64_t part = kChunksPerSegment / segment.size();
  return segment[chunk / part] + chunk % part * kWindowSize;
}

FilePlace ImageImpl::in_file(uint64_t offset) const {
  const ImageFile::Place at = media_->file().place(offset);
  return {at.file, at.offset};
}

FilePlace ImageImpl::beneath(FilePlace place) const {
  return {place.file + own_files(), place.offset};
}

std::vector<FilePlace> ImageImpl::parts_of_segment(uint64_t segment) const {
  std::vector<FilePlace> parts;
  for (uint64_t at = segment; at < segment + kSegmentSize;) {
    parts.push_back(in_file(at));
    at += std::min(kSegmentSize, media_->file().place(at).length);
  }
  return parts;
}

Result<void> ImageImpl::check_chunks(ChunkIndex first, uint64_t count) const {
  const uint64_t end = virtual_size_ / kChunkSize;
  if (first.value < end && count <= end - first.value) return {};
  return make_error(Code::kInvalid, "chunk " + std::to_string(first.value + count - 1) +
                                        " lies beyond the end of the image");
}

// A chunk that several of `tables`, newest first, own pages of.
Result<GibLayout::Chunk> ImageImpl::layout_of_shared(std::span<const GibTable> tables,
                                                     uint64_t in_segment) const {
  GibLayout::Chunk layout;
  PageMap hidden;
  for (const GibTable& table : tables) {
    const format::ChunkEntry& entry = table.entries.entry(in_segment);
    if (entry.owned_pages == 0) continue;
    PCOW_TRY_ASSIGN(const format::PageMapBytes bytes, table.table.page_map(in_segment, entry));
    const PageMap owned = to_page_map(bytes);
    if ((owned & ~hidden).none()) continue;
    if (layout.kind != GibLayout::Kind::kHole) return GibLayout::Chunk{GibLayout::Kind::kMixed, {}};
    layout = {GibLayout::Kind::kWindow, {0, entry.window}};
    hidden |= owned;
    if (hidden.all()) break;
  }
  return layout;
}

Result<std::vector<ImageImpl::GibTable>> ImageImpl::tables_of(GibIndex gib) const {
  std::vector<GibTable> tables;
  uint64_t steps = 0;
  PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, chunk_table(gib));
  while (table) {
    GibTable& here = tables.emplace_back(GibTable{*table, {}});
    PCOW_TRY(table->read_entries(here.entries));
    PCOW_TRY_ASSIGN(table, parent_of(here.entries.fields(), gib, steps));
  }
  return tables;
}

Result<GibLayout> ImageImpl::layout(GibIndex gib) const {
  PCOW_TRY(check_chunks(first_chunk(gib), 1));
  const uint64_t count =
      std::min(kChunksPerSegment, virtual_size_ / kChunkSize - first_chunk(gib).value);
  GibLayout layout;  // by image offset, up to the base
  std::optional<uint64_t> segment;
  ChunkMap shared;
  uint64_t steps = 0;
  PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, chunk_table(gib));
  while (table) {
    format::Block block;
    PCOW_TRY(table->read_header(block));
    const auto& header = block.as<format::ChunkTableHeader>();
    if (!segment) segment = header.segment;
    for (uint64_t i = 0; i < count; ++i) {
      if (!owns(header.owning_chunks, i)) continue;
      GibLayout::Chunk& chunk = layout.chunks.at(i);
      shared[i] = chunk.kind != GibLayout::Kind::kHole;
      if (!shared[i]) chunk = {GibLayout::Kind::kWindow, {0, header.segment + i * kWindowSize}};
    }
    PCOW_TRY_ASSIGN(table, parent_of(header, gib, steps));
  }
  if (shared.any()) {
    PCOW_TRY_ASSIGN(const std::vector<GibTable> tables, tables_of(gib));
    for (uint64_t i = 0; i < count; ++i) {
      if (!shared[i]) continue;
      PCOW_TRY_ASSIGN(layout.chunks.at(i), layout_of_shared(tables, i));
    }
  }
  for (uint64_t i = 0; i < count && !store_.overlay().empty(); ++i) {
    if (layout.chunks.at(i).kind == GibLayout::Kind::kHole) continue;
    PCOW_TRY_ASSIGN(const PageMap replayed, logged_pages(first_chunk(gib) + i));
    if (replayed.any()) layout.chunks.at(i) = {GibLayout::Kind::kMixed, {}};
  }
  segment = common_segment(layout, segment);
  if (segment) layout.segment = parts_of_segment(*segment);
  for (GibLayout::Chunk& chunk : layout.chunks) {
    if (chunk.kind == GibLayout::Kind::kWindow) chunk.window = in_file(chunk.window.offset);
  }
  PCOW_TRY(lay_over_base(gib, count, layout));
  return layout;
}

// A chunk of which the base has pages, beneath what this image has of it. `end`: of what shows of
// the base.
Result<GibLayout::Chunk> ImageImpl::layout_over(ChunkIndex chunk, const GibLayout::Chunk& own,
                                                const GibLayout::Chunk& below, uint64_t end) const {
  if (own.kind == GibLayout::Kind::kMixed) return own;
  const bool all_shows = (chunk.value + 1) * kChunkSize <= end;
  if (own.kind == GibLayout::Kind::kHole && all_shows) {
    return GibLayout::Chunk{below.kind, beneath(below.window)};
  }
  PageMap shown;
  PCOW_TRY(add_base_pages(chunk, shown));
  PCOW_TRY_ASSIGN(const PageMap owned, page_map(chunk));
  if ((shown & ~owned).none()) return own;
  return GibLayout::Chunk{GibLayout::Kind::kMixed, {}};
}

Result<void> ImageImpl::lay_over_base(GibIndex gib, uint64_t count, GibLayout& layout) const {
  PCOW_TRY_ASSIGN(const uint64_t end, base_end());
  if (first_chunk(gib).value * kChunkSize >= end) return {};
  if (!base_) return base_not_open();
  PCOW_TRY_ASSIGN(const GibLayout below, base_->layout(gib));
  bool any = false;
  for (uint64_t i = 0; i < count; ++i) {
    const ChunkIndex chunk = first_chunk(gib) + i;
    GibLayout::Chunk& own = layout.chunks.at(i);
    if (chunk.value * kChunkSize >= end || below.chunks.at(i).kind == GibLayout::Kind::kHole) {
      continue;
    }
    any = true;
    PCOW_TRY_ASSIGN(own, layout_over(chunk, own, below.chunks.at(i), end));
  }
  if (!any || all_in(layout.segment, layout)) return {};
  // Of the base only what may be mapped whole, and shows as a whole.
  layout.segment.clear();
  const bool all_shows = (first_chunk(gib).value + count) * kChunkSize <= end;
  std::vector<FilePlace> segment = below.segment;
  for (FilePlace& part : segment) part = beneath(part);
  if (all_shows && all_in(segment, layout)) layout.segment = std::move(segment);
  return {};
}

// Goes through write_pages(): what it copies is written like what a guest has written.
Result<uint64_t> ImageImpl::fold_chunk(ChunkIndex chunk) {
  PCOW_TRY_ASSIGN(PageMap lacking, page_map(chunk));
  PCOW_TRY(add_base_pages(chunk, lacking));
  GibWriter writer;
  PCOW_TRY(plan_gib(gib_of(chunk), writer));
  if (writer.own) {
    const uint64_t in_segment = chunk_in_segment(chunk);
    PCOW_TRY_ASSIGN(const format::PageMapBytes own,
                    writer.own->page_map(in_segment, writer.entries.entry(in_segment)));
    lacking &= ~to_page_map(own);
  }
  if (lacking.none()) return uint64_t{0};
  std::vector<std::byte> data(kChunkSize);
  PCOW_TRY(read(chunk.value * kChunkSize, data));
  std::vector<PageWrite> writes;
  writes.reserve(lacking.count());
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if (!lacking[page]) continue;
    writes.push_back(
        {PageIndex(chunk.value * kPagesPerChunk + page), data.data() + page * kPageSize});
  }
  // The same content in another place: all of it went through the log, and it is no new epoch.
  const bool written_since_commit = written_since_commit_;
  const Media::CopyScope scope(*media_);
  PCOW_TRY(write_pages(writes));
  written_since_commit_ = written_since_commit;
  return writes.size();
}

Result<uint64_t> ImageImpl::fold(ChunkIndex first, uint64_t count) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_chunks(first, count));
  uint64_t pages = 0;
  for (uint64_t i = 0; i < count; ++i) {
    PCOW_TRY_ASSIGN(const uint64_t copied, fold_chunk(first + i));
    pages += copied;
  }
  return pages;
}

}  // namespace pcow
