// SPDX-License-Identifier: BSD-3-Clause
//
// Giving back space: what nothing owns within segments, and segments that nothing refers to.
#include <algorithm>
#include <limits>

#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BlockType;
using format::SegmentKind;

// Whether there is anything to give back is not asked: space that was reserved and never written
// looks like a hole to who looks for data.
Result<void> ImageImpl::empty_unowned(uint64_t window, const PageMap& owned) {
  for (uint64_t page = 0; page < kPagesPerChunk;) {
    uint64_t end = page;
    while (end < kPagesPerChunk && !owned[end]) ++end;
    if (end > page) {
      PCOW_TRY(media_->file().punch(window + page * kPageSize, (end - page) * kPageSize));
    }
    page = end + 1;
  }
  return {};
}

Result<void> ImageImpl::visit_windows(uint64_t segment, uint64_t table_offset,
                                      const WindowVisitor& fn) const {
  std::optional<ChunkTable> table;
  ChunkEntries entries;
  if (table_offset != 0) {
    format::Block header;
    PCOW_TRY(store_.peek(table_offset, header.bytes));
    const GibIndex gib(header.as<format::ChunkTableHeader>().gib);
    PCOW_TRY_ASSIGN(table, table_at(table_offset, gib));
    PCOW_TRY(table->read_entries(entries));
    if (entries.segment_offset() != segment) {
      store_.report_damage();
      return make_error(Code::kCorrupt,
                        "'" + media_->file().path() + "' is damaged: the chunk table at offset " +
                            std::to_string(table_offset) + " does not belong to segment " +
                            std::to_string(segment / kSegmentSize) + "; see 'pcow-img check'");
    }
  }
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    PageMap owned;
    if (table && entries.entry(chunk).owned_pages != 0) {
      PCOW_TRY_ASSIGN(const format::PageMapBytes map, table->page_map(chunk, entries.entry(chunk)));
      owned = to_page_map(map);
    }
    PCOW_TRY(fn(segment + chunk * kWindowSize, owned));
  }
  return {};
}

Result<uint64_t> ImageImpl::table_of_filled(uint64_t segment) const {
  if (segment >= image_end()) return uint64_t{0};
  PCOW_TRY_ASSIGN(const format::SegmentEntry entry,
                  allocator_.entry(SegmentIndex(segment / kSegmentSize)));
  if (entry.kind == static_cast<uint8_t>(SegmentKind::kFree)) return uint64_t{0};
  if (entry.kind == static_cast<uint8_t>(SegmentKind::kData) && entry.owner != 0) {
    return uint64_t{entry.owner};
  }
  return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                        "' is damaged: its log fills segment " +
                                        std::to_string(segment / kSegmentSize) +
                                        ", which is not for data; nothing was replayed: restore "
                                        "the file from a copy");
}

Result<void> ImageImpl::empty_filled(const std::map<uint64_t, WindowSet>& filling) {
  for (const auto& [segment, windows] : filling) {
    PCOW_TRY_ASSIGN(const uint64_t table, table_of_filled(segment));
    const auto empty = [&, first = segment, &named = windows](
                           uint64_t window, const PageMap& owned) -> Result<void> {
      return named[(window - first) / kWindowSize] ? empty_unowned(window, owned) : Result<void>();
    };
    PCOW_TRY(visit_windows(segment, table, empty));
  }
  return {};
}

// Of a range that is there for a log, what it does not use, or all.
Result<void> ImageImpl::empty_log_room(uint64_t begin, uint64_t end, bool with_log) {
  const LogPosition& log = log_.position();
  const uint64_t log_end = log.offset + log.size;
  if (with_log || log.offset >= end || log_end <= begin) {
    return media_->file().punch(begin, end - begin);
  }
  if (begin < log.offset) PCOW_TRY(media_->file().punch(begin, log.offset - begin));
  return log_end < end ? media_->file().punch(log_end, end - log_end) : Result<void>();
}

Result<uint64_t> ImageImpl::reclaim_unowned() {
  PCOW_TRY(check_writable());
  give_back_ahead();
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const SegmentIndex end(root_block->segment_count);
  PCOW_TRY_ASSIGN(const uint64_t before, media_->file().disk_bytes());
  const bool log_empty = !writing_;
  PCOW_TRY(empty_log_room(format::kLogOffset, kSegmentSize, log_empty));
  for (SegmentIndex segment(1); segment < end; ++segment) {
    PCOW_TRY_ASSIGN(const format::SegmentEntry entry, allocator_.entry(segment));
    const uint64_t offset = segment.value * kSegmentSize;
    if (entry.kind == static_cast<uint8_t>(SegmentKind::kLog)) {
      PCOW_TRY(empty_log_room(offset, offset + kSegmentSize, log_empty));
    }
    const bool data = entry.kind == static_cast<uint8_t>(SegmentKind::kData);
    // A free one that holds something was about to be used when a crash came.
    if (!data && entry.kind != static_cast<uint8_t>(SegmentKind::kFree)) continue;
    if (data && entry.owner == 0) continue;  // whose it is nobody knows: see 'pcow-img check'
    if (!data) {
      PCOW_TRY(media_->file().punch(offset, kSegmentSize));
      continue;
    }
    const auto reclaim = [&](uint64_t window, const PageMap& owned) {
      return empty_unowned(window, owned);
    };
    PCOW_TRY(visit_windows(offset, entry.owner, reclaim));
  }
  // Taken by a transaction that a crash cut off.
  PCOW_TRY_ASSIGN(const uint64_t size, media_->file().size());
  if (size > image_end()) PCOW_TRY(media_->file().punch(image_end(), size - image_end()));
  PCOW_TRY_ASSIGN(const uint64_t after, media_->file().disk_bytes());
  return before - std::min(before, after);
}

// The slot of the table is emptied, so it had better be one.
Result<void> ImageImpl::check_quarantined(const Allocator::Quarantined& item) const {
  if (item.table == 0) return {};
  const format::Superblock& sb = superblocks_.current();
  const bool in_log =
      item.table + format::kSlotSize > sb.log_offset && item.table < sb.log_offset + sb.log_size;
  PCOW_TRY_ASSIGN(const bool possible, allocator_.can_be_slot(item.table));
  if (possible && !in_log) {
    format::Block header;
    PCOW_TRY(store_.peek(item.table, header.bytes));
    // A crash may have left it half emptied; then nothing says what it was.
    const auto& block = header.as<format::ChunkTableHeader>().header;
    if (block.magic != format::kBlockMagic ||
        block.type == static_cast<uint16_t>(BlockType::kChunkTable)) {
      return {};
    }
  }
  store_.report_damage();
  return make_error(Code::kCorrupt,
                    "'" + media_->file().path() + "' is damaged: segment " +
                        std::to_string(item.segment.value) + " gives up a chunk table at offset " +
                        std::to_string(item.table) + " where there is none; see 'pcow-img check'");
}

// Segments in quarantine become holes, and then free (allocator.h).
Result<void> ImageImpl::reclaim_quarantine() {
  const SegmentInUse not_mapped;
  DeletionStep step{std::numeric_limits<uint64_t>::max(), not_mapped};
  return reclaim_quarantine(step);
}

// Whether all of it is empty.
Result<bool> ImageImpl::empty_segment(const Allocator::Quarantined& item, DeletionStep& step) {
  constexpr uint64_t kPagesPerHole = 16;  // takes as long as moving so many
  if (!emptying_ || emptying_->first != item.segment) emptying_ = {item.segment, 0};
  uint64_t& next = emptying_->second;
  while (next < kChunksPerSegment) {
    if (step.spent()) return false;
    const uint64_t count =
        std::min(kChunksPerSegment - next, std::max<uint64_t>(step.left / kPagesPerHole, 1));
    PCOW_TRY(media_->file().punch(item.segment.value * kSegmentSize + next * kWindowSize,
                                  count * kWindowSize));
    next += count;
    step.take(count * kPagesPerHole);
  }
  if (item.table == 0) return true;
  PCOW_TRY(media_->file().punch(item.table, format::kSlotSize));
  store_.forget(item.table, format::kSlotSize);
  return true;
}

Result<void> ImageImpl::reclaim_quarantine(DeletionStep& step) {
  constexpr size_t kAtOnce = 1024;  // a transaction of at most so many
  for (;;) {
    PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
    step.report.done = root_block->quarantined_segments == 0;
    if (step.report.done) return {};
    PCOW_TRY_ASSIGN(std::vector<Allocator::Quarantined> items,
                    allocator_.quarantined(image_end() / kSegmentSize));
    step.report.done = items.empty();
    std::erase_if(items, [&](const Allocator::Quarantined& item) {
      return step.in_use && step.in_use(parts_of_segment(item.segment.value * kSegmentSize));
    });
    step.report.waits = items.empty() && !step.report.done;
    if (items.empty()) return {};
    items.resize(std::min(items.size(), kAtOnce), {SegmentIndex(0), 0});
    for (const Allocator::Quarantined& item : items) PCOW_TRY(check_quarantined(item));
    PCOW_TRY(begin_writing());
    // Replaying the log would store lines of their tables again, and of what moved from them.
    PCOW_TRY_ASSIGN(const bool log_empty, empty_log(step));
    if (!log_empty) return {};
    size_t emptied = 0;
    for (bool whole = true; whole && emptied < items.size(); emptied += whole ? 1U : 0U) {
      PCOW_TRY_ASSIGN(whole, empty_segment(items[emptied], step));
    }
    if (emptied == 0) return {};
    PCOW_TRY(media_->flush());
    const auto change = [&]() -> Result<void> {
      for (size_t i = 0; i < emptied; ++i) PCOW_TRY(allocator_.free(items[i]));
      return commit_transaction();
    };
    PCOW_TRY(with_transaction(change));
    emptying_.reset();
    if (emptied < items.size()) return {};
  }
}

}  // namespace pcow
