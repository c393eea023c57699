// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with where the log lies: in segment 0, or in segments of its
// own. What room for a log there is besides holds nothing.
#include "pcow/check/checker.h"

namespace pcow {

using format::Block;
using format::SegmentKind;

// In segment 0, or from the start of another one on. REQUIRES: its size is possible.
bool Checker::log_place_possible(const format::Superblock& superblock) {
  const uint64_t offset = superblock.log_offset;
  const uint64_t size = superblock.log_size;
  if (offset < kSegmentSize) return offset >= 2 * kWindowSize && size <= kSegmentSize - offset;
  return offset % kSegmentSize == 0 && offset <= format::kMaxSegments * kSegmentSize - size;
}

// Replaying a log must not make its own segments anything else, nor be what makes them its own:
// where a log is in doubt, so is all that it says.
Result<void> Checker::check_log_segments() {
  const uint64_t first = superblock_->log_offset;
  if (first < kSegmentSize) return {};
  for (uint64_t at = first; at < first + superblock_->log_size; at += kSegmentSize) {
    const uint64_t index = at / kSegmentSize;
    if (index >= root_.segment_count) {
      corrupt("superblock: the log lies behind the last segment", at);
      return {};
    }
    const auto segment = segments_.find(index);
    if (segment == segments_.end()) continue;  // of a block that is damaged, which is reported
    PCOW_TRY_ASSIGN(const bool on_medium, is_log_on_medium(index));
    if (static_cast<SegmentKind>(segment->second.kind) != SegmentKind::kLog || !on_medium) {
      corrupt("superblock: the log lies in segment " + std::to_string(index) +
                  ", which is not for a log",
              at);
    }
  }
  return {};
}

// Without the log laid over. The lines that say it are durable before a log is there, whichever
// others of their blocks a crash cut off; so checksums are not asked.
Result<bool> Checker::is_log_on_medium(uint64_t index) const {
  Block block;
  PCOW_TRY_ASSIGN(bool there, file_->read(format::kRootOffset, block.bytes));
  const auto& root = block.as<format::RootBlock>();
  const uint64_t slot = root.segment_table[index / format::kSegmentsPerSlot];
  if (!there || index >= root.segment_count || slot < format::kRootOffset ||
      slot % format::kSlotSize != 0 || slot >= size_) {
    return false;
  }
  const uint64_t in_slot = index % format::kSegmentsPerSlot;
  PCOW_TRY_ASSIGN(there,
                  file_->read(slot + in_slot / format::kSegmentsPerBlock * kPageSize, block.bytes));
  const auto& entry =
      block.as<format::SegmentTableBlock>().entries[in_slot % format::kSegmentsPerBlock];
  return there && static_cast<SegmentKind>(entry.kind) == SegmentKind::kLog;
}

// The log of an image that was closed is a hole, and so is what room there is for one besides: a
// log that moved leaves its former place, one that was to move may not have come to it, and what
// lies behind the last segment is for the next. As with quarantine, the next writer of an image
// that was not closed cleanly sees to it.
Result<void> Checker::check_unused_log_space() {
  if (!report_.clean || live_) return {};
  const uint64_t log = superblock_->log_offset;
  const uint64_t below = std::min(log + superblock_->log_size, format::kLogOffset);
  if (log < below) PCOW_TRY(check_left_by_log(log, below));
  PCOW_TRY(check_left_by_log(format::kLogOffset, kSegmentSize));
  for (const auto& [index, entry] : segments_) {
    if (index == 0 || static_cast<SegmentKind>(entry.kind) != SegmentKind::kLog) continue;
    PCOW_TRY(check_left_by_log(index * kSegmentSize, (index + 1) * kSegmentSize));
  }
  return check_left_by_log(root_.segment_count * kSegmentSize, size_);
}

Result<void> Checker::check_left_by_log(uint64_t begin, uint64_t end) {
  uint64_t pages = 0;
  const auto count = [&](uint64_t page) -> Result<void> {
    plan_.add_hole(page, kPageSize);
    ++pages;
    return {};
  };
  PCOW_TRY(for_each_data_page(begin, end, count));
  leak(pages, "for a log, or behind the last segment,", begin / kSegmentSize * kSegmentSize);
  return {};
}

}  // namespace pcow
