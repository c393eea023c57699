// SPDX-License-Identifier: BSD-3-Clause
//
// How to map an image: where the windows of a GiB are, and how a chunk gets all its pages into one.
//
// A window may be mapped whole when all owned pages of its chunk lie in it: by the zero rule the
// others are zero. Folding is for chunks that several layers have written to: the active layer, the
// only one whose windows take pages, copies those that it lacks. A copy hides a page of the same
// content, so it goes into the log with its ownership (image_write.cc), and a crash before, in
// between or after shows the same.
#include <algorithm>

#include "pcow/engine/image_impl.h"

namespace pcow {

// A table of a GiB, to look at many of its chunks.
struct ImageImpl::GibTable {
  ChunkTable table;
  ChunkEntries entries;
};

namespace {

// The segment that all windows lie in; what it was if there are none.
void set_segment(GibLayout& layout) {
  std::optional<uint64_t> found;
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) {
    const GibLayout::Chunk& chunk = layout.chunks.at(i);
    if (chunk.kind == GibLayout::Kind::kHole) continue;
    const uint64_t segment = chunk.window - i * kWindowSize;
    if (chunk.kind == GibLayout::Kind::kMixed || found.value_or(segment) != segment) {
      layout.segment.reset();
      return;
    }
    found = segment;
  }
  if (found) layout.segment = found;
}

}  // namespace

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
    if (layout.kind != GibLayout::Kind::kHole) return GibLayout::Chunk{GibLayout::Kind::kMixed, 0};
    layout = {GibLayout::Kind::kWindow, entry.window};
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
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  if (gib.value * kGiB < end_of_base) {
    return make_error(Code::kUnsupported,
                      "'" + media_->file().path() +
                          "' has a base, over which this version cannot map guest memory: "
                          "'pcow-img convert --allow-base' makes an image without one");
  }
  const uint64_t count =
      std::min(kChunksPerSegment, virtual_size_ / kChunkSize - first_chunk(gib).value);
  GibLayout layout;
  ChunkMap shared;
  uint64_t steps = 0;
  PCOW_TRY_ASSIGN(std::optional<ChunkTable> table, chunk_table(gib));
  while (table) {
    format::Block block;
    PCOW_TRY(table->read_header(block));
    const auto& header = block.as<format::ChunkTableHeader>();
    if (!layout.segment) layout.segment = uint64_t{header.segment};
    for (uint64_t i = 0; i < count; ++i) {
      if (!owns(header.owning_chunks, i)) continue;
      GibLayout::Chunk& chunk = layout.chunks.at(i);
      shared[i] = chunk.kind != GibLayout::Kind::kHole;
      if (!shared[i]) chunk = {GibLayout::Kind::kWindow, header.segment + i * kWindowSize};
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
  set_segment(layout);
  return layout;
}

// Goes through write_pages(): what it copies is written like what a guest has written.
Result<uint64_t> ImageImpl::fold_chunk(ChunkIndex chunk) {
  PCOW_TRY_ASSIGN(PageMap lacking, page_map(chunk));
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
