// SPDX-License-Identifier: BSD-3-Clause
//
// Giving up content: pages become zero, and their space goes back to the file system.
//
// Order, for some GiBs at a time, and what a crash leaves behind:
//   1. empty the log of data              (invariant 5)
//   2. make holes, durably, of what       (a page that is owned, and a hole, is zero: nothing that
//      the active layer owns of them      lies beneath shows; so pages are old or zero)
//   3. a transaction: of these pages the  (zero; what is not owned any more is a hole by 2, so the
//      layer owns those beneath which     zero rule holds without a note of what is to be emptied)
//      there is something, as holes
//
// While a deletion makes one of the active layer's table C and the table T beneath it
// (image_release.cc), 3 takes nothing from C that T has, for that lies beneath; and a page that was
// copied to T's window is copied again (forget_copy()).
#include <algorithm>

#include "pcow/engine/image_impl.h"
#include "pcow/engine/page_runs.h"

namespace pcow {

using format::ChunkEntry;
using format::PageMapBytes;

namespace {

// A transaction of so many tables is well below the smallest log (a table is 44 KiB).
constexpr uint64_t kGibsAtOnce = 16;

PageIndex end_of(GibIndex gib) { return first_page(first_chunk(gib + 1)); }

// Those of [first, end) that lie in a chunk.
PageMap pages_of(ChunkIndex chunk, PageIndex first, PageIndex end) {
  const PageIndex from = std::max(first, first_page(chunk));
  const PageIndex to = std::min(end, first_page(chunk + 1));
  PageMap pages;
  for (PageIndex page = from; page < to; ++page) pages.set(page_in_chunk(page));
  return pages;
}

// Calls fn for what lies of [first, end) in each GiB.
template <typename Fn>
Result<void> for_each_gib(PageIndex first, PageIndex end, const Fn& fn) {
  while (first < end) {
    const PageIndex next = std::min(end, end_of(gib_of(chunk_of(first))));
    PCOW_TRY(fn(first, next));
    first = next;
  }
  return {};
}

}  // namespace

// Places of what the active layer owns of pages of one GiB. A chunk that is given up as a whole
// becomes a hole as a whole, also where nobody owns it. Returns how many pages are owned.
Result<uint64_t> ImageImpl::plan_holes(PageIndex first, PageIndex end,
                                       std::vector<Range>& holes) const {
  GibWriter writer;
  PCOW_TRY(plan_gib(gib_of(chunk_of(first)), writer));
  uint64_t pages = 0;
  if (!writer.own) return pages;
  for (ChunkIndex chunk = chunk_of(first); first_page(chunk) < end; ++chunk) {
    const uint64_t in_segment = chunk_in_segment(chunk);
    const ChunkEntry& entry = writer.entries.entry(in_segment);
    if (entry.owned_pages == 0) continue;
    const PageMap range = pages_of(chunk, first, end);
    PCOW_TRY_ASSIGN(const PageMapBytes map, writer.own->page_map(in_segment, entry));
    const PageMap owned = to_page_map(map) & range;
    pages += owned.count();
    const PageMap emptied = range.all() ? range : owned;
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      if (emptied[page]) add_range(holes, entry.window + page * kPageSize);
    }
  }
  return pages;
}

Result<void> ImageImpl::make_holes(const std::vector<Range>& holes) {
  if (holes.empty()) return {};
  PCOW_TRY(settle_log());
  PCOW_TRY(begin_writing());
  written_since_commit_ = true;
  for (const auto& [offset, length] : holes) {
    if (ahead_) ahead_->forget(offset, length);
    for (uint64_t at = offset; merging_ && at < offset + length; at += kPageSize) forget_copy(at);
    PCOW_TRY(media_->file().punch(offset, length));
  }
  return media_->flush();
}

// Inside a transaction: of pages of one GiB the active layer owns those beneath which there is
// something.
Result<ImageImpl::OwnershipChange> ImageImpl::give_up_pages(PageIndex first, PageIndex end) {
  OwnershipChange change;
  const GibIndex gib = gib_of(chunk_of(first));
  GibWriter writer;
  PCOW_TRY(plan_gib(gib, writer));
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  const bool has_base = first.value * kPageSize < end_of_base;
  if (!writer.own && !writer.below && !has_base) return change;
  for (ChunkIndex chunk = chunk_of(first); first_page(chunk) < end; ++chunk) {
    const uint64_t in_segment = chunk_in_segment(chunk);
    PageMap owned;
    if (writer.own) {
      PCOW_TRY_ASSIGN(const PageMapBytes map,
                      writer.own->page_map(in_segment, writer.entries.entry(in_segment)));
      owned = to_page_map(map);
    }
    PCOW_TRY_ASSIGN(const ChunkPages lower, lower_pages(writer, chunk));
    const PageMap range = pages_of(chunk, first, end);
    const PageMap now = (owned & ~range) | (lower.owned & range);
    if (now == owned) continue;
    if (!writer.own) PCOW_TRY(add_own_table(gib, writer));
    const uint64_t segment = writer.entries.segment_offset();
    PCOW_TRY(now.any() ? writer.own->set_map(in_segment, to_map_bytes(now), segment)
                       : writer.own->clear(in_segment));
    change.added += (now & ~owned).count();
    change.removed += (owned & ~now).count();
  }
  if (change.added + change.removed > 0) PCOW_TRY(writer.own->finish());
  return change;
}

Result<uint64_t> ImageImpl::discard_step(PageIndex first, PageIndex end) {
  std::vector<Range> holes;
  uint64_t pages = 0;
  PCOW_TRY(for_each_gib(first, end, [&](PageIndex from, PageIndex to) -> Result<void> {
    PCOW_TRY_ASSIGN(const uint64_t owned, plan_holes(from, to, holes));
    pages += owned;
    return {};
  }));
  PCOW_TRY(make_holes(holes));
  uint64_t hidden = 0;
  const auto change = [&]() -> Result<void> {
    OwnershipChange all;
    const auto give_up = [&](PageIndex from, PageIndex to) -> Result<void> {
      PCOW_TRY_ASSIGN(const OwnershipChange here, give_up_pages(from, to));
      all.added += here.added;
      all.removed += here.removed;
      return {};
    };
    PCOW_TRY(for_each_gib(first, end, give_up));
    if (!store_.changed()) return {};
    PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
    PCOW_TRY(count_pages(place, all.added, all.removed));
    hidden = all.added;
    return commit_transaction();
  };
  PCOW_TRY(with_space([&] { return with_transaction(change); }));
  written_since_commit_ |= hidden > 0;
  return pages + hidden;
}

Result<uint64_t> ImageImpl::discard(PageIndex first, uint64_t count) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  const uint64_t end_of_image = virtual_size_ / kPageSize;
  if (first.value > end_of_image || count > end_of_image - first.value) {
    return make_error(Code::kInvalid, "pages to discard must lie inside the image");
  }
  const PageIndex end = first + count;
  uint64_t pages = 0;
  while (first < end) {
    const PageIndex next =
        std::min(end, first_page(first_chunk(gib_of(chunk_of(first)) + kGibsAtOnce)));
    PCOW_TRY_ASSIGN(const uint64_t step, discard_step(first, next));
    pages += step;
    first = next;
  }
  resume_ahead();
  return pages;
}

}  // namespace pcow
