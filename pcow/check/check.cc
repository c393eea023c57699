// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/base/no_memory.h"
#include "pcow/check/checker.h"

#include <bit>
#include <cerrno>
#include <cstring>

namespace pcow {

using format::Block;
using format::BlockType;
using format::Superblock;

Result<CheckReport> Checker::run() {
  PCOW_TRY_ASSIGN(size_, file_->size());
  PCOW_TRY(check_superblocks());
  if (!superblock_) return std::move(report_);
  const auto report = [this](const std::string& what, uint64_t offset) { corrupt(what, offset); };
  PCOW_TRY_ASSIGN(const bool complete, file_->open_members(*superblock_, report));
  if (!complete) return std::move(report_);
  PCOW_TRY_ASSIGN(size_, file_->size());
  PCOW_TRY(check_log());
  PCOW_TRY(look_for_hidden_space());
  PCOW_TRY_ASSIGN(const bool root_ok, check_root());
  if (!root_ok) return std::move(report_);
  PCOW_TRY(check_segment_table());
  PCOW_TRY(check_log_segments());
  PCOW_TRY(check_unused_log_space());
  PCOW_TRY(check_layers());
  check_data_segments();
  PCOW_TRY(check_slot_maps());
  return std::move(report_);
}

void Checker::note(const std::string& message) {
  ++report_.corruptions;
  report_.messages.push_back(message);
}

void Checker::corrupt(const std::string& what, uint64_t offset) {
  plan_.unproven.push_back("corrupt: " + what + " at offset " + std::to_string(offset));
  note(plan_.unproven.back());
}

void Checker::repairable(const std::string& what, uint64_t offset) {
  note("corrupt: " + what + " at offset " + std::to_string(offset));
}

Result<void> Checker::plan_block(uint64_t offset, const std::function<void(Block&)>& change) {
  const auto [page, is_new] = plan_.pages.try_emplace(offset);
  if (is_new) PCOW_TRY(read(offset, page->second.bytes));
  change(page->second);
  format::seal(page->second);
  return {};
}

Result<bool> Checker::read(uint64_t offset, std::span<std::byte> out) const {
  if (offset > size_ || out.size() > size_ - offset) return false;
  PCOW_TRY_ASSIGN(const bool there, file_->read(offset, out));
  if (!there) return false;
  PCOW_TRY(log_.lay_over(*file_, offset, out));
  return true;
}

Result<bool> Checker::read_block(uint64_t offset, BlockType type, const char* name, Block& block) {
  PCOW_TRY_ASSIGN(const bool there, read(offset, block.bytes));
  const std::string defect =
      there ? format::block_defect(block, type, offset, superblock_->uuid) : "past the end";
  if (defect.empty()) return true;
  corrupt(std::string(name) + ": " + defect, offset);
  return false;
}

Result<void> Checker::check_spare_blocks(uint64_t slot, uint64_t first, BlockType type,
                                         const char* name) {
  for (uint64_t index = first; index < format::kBlocksPerSlot; ++index) {
    const uint64_t offset = slot + index * format::kBlockSize;
    Block block;
    PCOW_TRY_ASSIGN(const bool there, read(offset, block.bytes));
    if (there && !(block == Block{})) PCOW_TRY(read_block(offset, type, name, block));
  }
  return {};
}

bool Checker::in_image(uint64_t offset, uint64_t align, uint64_t length) const {
  const uint64_t end = root_.segment_count * kSegmentSize;
  return offset >= format::kRootOffset && offset % align == 0 && offset < end &&
         length <= end - offset;
}

Result<void> Checker::check_superblocks() {
  std::array<std::string, 2> defects;
  bool any_magic = false;
  uint32_t other_version = 0;
  for (uint32_t index = 0; index < 2; ++index) {
    const uint64_t offset = format::kSuperblockOffset[index];
    Superblock sb{};
    const uint64_t there = size_ > offset ? std::min<uint64_t>(size_ - offset, sizeof(sb)) : 0;
    if (there > 0) {
      PCOW_TRY_ASSIGN(const bool ok,
                      read(offset, std::as_writable_bytes(std::span(&sb, 1)).first(there)));
      if (!ok) return errno_error(EIO, "cannot read '" + file_->path() + "'");
    }
    const bool magic = there >= sizeof(sb.magic) && sb.magic == format::kSuperblockMagic;
    any_magic |= magic;
    if (!magic) {
      defects[index] = "no pcow magic";
    } else if (sb.version != format::kVersion) {
      defects[index] = "format version " + std::to_string(sb.version);
      other_version = sb.version;
    } else if (there < sizeof(sb) || !format::superblock_checksum_ok(sb)) {
      defects[index] = "checksum mismatch";
    } else if (sb.copy != index || sb.header_length != sizeof(sb)) {
      defects[index] = "wrong copy number or length";
    } else if (!superblock_ || sb.sequence > superblock_->sequence) {
      superblock_ = sb;
    }
  }
  if (!superblock_ && other_version != 0) {
    return make_error(Code::kUnsupported,
                      "'" + file_->path() + "' has format version " +
                          std::to_string(other_version) + "; this program knows version " +
                          std::to_string(format::kVersion) + ": use the program that wrote it");
  }
  if (!superblock_ && !any_magic) {
    return make_error(Code::kForeign, "'" + file_->path() + "' is not a pcow image");
  }
  for (uint32_t index = 0; index < 2; ++index) {
    if (defects[index].empty()) continue;
    const std::string what = "superblock copy " + std::to_string(index) + ": " + defects[index];
    // A copy of another version is no damage that the sound one could make good.
    if (superblock_ && other_version == 0) {
      plan_.superblock_copy = true;
      repairable(what, format::kSuperblockOffset[index]);
    } else {
      corrupt(what, format::kSuperblockOffset[index]);
    }
  }
  return superblock_ ? check_superblock_fields() : Result<void>();
}

Result<void> Checker::check_superblock_fields() {
  const Superblock& sb = *superblock_;
  if ((sb.incompatible & ~format::kIncompatibleSupported) != 0) {
    return make_error(Code::kUnsupported, "'" + file_->path() +
                                              "' uses features this version cannot check: use a "
                                              "newer version");
  }
  if (sb.member_index != 0 && (sb.incompatible & format::kIncompatibleStripe) != 0) {
    return make_error(Code::kUnsupported, "'" + file_->path() + "' is member " +
                                              std::to_string(sb.member_index) +
                                              " of a stripe set: name its first file");
  }
  check_base_reference();
  check_reserved(sb.reserved2, "superblock", 0);
  check_reserved(sb.reserved3, "superblock", 0);
  report_.clean = (sb.state & format::kStateDirty) == 0;
  report_.marked_corrupt = (sb.state & format::kStateCorrupt) != 0;
  if (report_.marked_corrupt) {
    plan_.unmark = true;
    repairable("the image is marked corrupt", 0);
  }
  if (sb.line_shift != 6 || sb.page_shift != 12 || sb.chunk_shift != 21 || sb.segment_shift != 30 ||
      sb.root_offset != format::kRootOffset || !check_stripe_fields() ||
      sb.log_size < format::kMinLogSize || sb.log_size >= format::kLogSizeEnd ||
      sb.log_offset % kWindowSize != 0 || sb.log_size % kWindowSize != 0 ||
      !log_place_possible(sb) || sb.log_tail % kLineSize != 0 ||
      sb.log_tail >= format::kLogTailEnd || sb.sequence == 0 || sb.uuid == format::Uuid{}) {
    corrupt("superblock: impossible values under a valid checksum", 0);
    superblock_.reset();
    return {};
  }
  return {};
}

bool Checker::check_stripe_fields() const {
  const Superblock& sb = *superblock_;
  const format::Uuid none{};
  if ((sb.incompatible & format::kIncompatibleStripe) == 0) {
    return sb.stripe_count == 1 && sb.stripe_unit_windows == 0 && sb.member_index == 0 &&
           sb.stripe_table_offset == 0 && sb.set_uuid == none && sb.session == none &&
           sb.next_session == none;
  }
  const uint64_t count = sb.stripe_count;
  const uint64_t unit = sb.stripe_unit_windows;
  return std::has_single_bit(count) && count > 1 && count <= format::kMaxStripeFiles &&
         std::has_single_bit(unit) && count * unit <= kChunksPerSegment &&
         sb.stripe_table_offset == format::kStripeTableOffset && sb.set_uuid != none &&
         sb.session != none;
}

// Only what the image says: the base itself is not looked at.
void Checker::check_base_reference() {
  const format::BaseReference& base = superblock_->base;
  const bool wanted = (superblock_->incompatible & format::kIncompatibleBase) != 0;
  const format::BaseReference none{};
  if (!wanted) {
    if (std::memcmp(&base, &none, sizeof(none)) != 0) {
      corrupt("superblock: a base without the feature 'base'", offsetof(Superblock, base));
    }
    return;
  }
  const uint64_t length = base.path_length;
  const auto end_of_path = std::find(base.path.begin(), base.path.end(), '\0');
  const bool path_ok = length > 0 && length < base.path.size() &&
                       static_cast<uint64_t>(end_of_path - base.path.begin()) == length &&
                       std::all_of(end_of_path, base.path.end(), [](char c) { return c == '\0'; });
  const bool identity_ok = base.format == 1   ? base.uuid != format::Uuid{}
                           : base.format == 2 ? base.uuid == format::Uuid{}
                                              : false;
  if (!path_ok || !identity_ok || base.base_size == 0) {
    corrupt("superblock: impossible reference to a base", offsetof(Superblock, base));
  }
  check_reserved(base.reserved, "base reference", offsetof(Superblock, base));
  check_reserved(base.reserved2, "base reference", offsetof(Superblock, base));
}

Result<void> Checker::check_log() {
  if (report_.clean || live_) return {};
  PCOW_TRY_ASSIGN(log_, read_committed_log(*file_, *superblock_));
  report_.log_records = log_.records;
  if (log_.damaged_at) corrupt("log: damage in front of a committed transaction", *log_.damaged_at);
  return {};
}

Result<bool> Checker::check_root() {
  Block block;
  PCOW_TRY_ASSIGN(const bool ok,
                  read_block(format::kRootOffset, BlockType::kRoot, "root block", block));
  if (!ok) return false;
  root_ = block.as<format::RootBlock>();
  check_reserved(root_.reserved, "root block", format::kRootOffset);
  check_reserved(root_.reserved2, "root block", format::kRootOffset);
  check_reserved(root_.reserved3, "root block", format::kRootOffset);
  const uint64_t segments = root_.segment_count;
  if (segments == 0 || segments > format::kMaxSegments || root_.virtual_size < kMinVirtualSize ||
      root_.virtual_size > kMaxVirtualSize || root_.virtual_size % kChunkSize != 0) {
    corrupt("root block: impossible sizes", format::kRootOffset);
    return false;
  }
  const auto report = [this](const std::string& what, uint64_t offset) { corrupt(what, offset); };
  PCOW_TRY_ASSIGN(const bool long_enough, file_->holds(segments * kSegmentSize, report));
  if (!long_enough) return false;
  if (size_ < segments * kSegmentSize) {
    corrupt("the file is truncated: " + std::to_string(segments * kSegmentSize) +
                " bytes wanted, it ends",
            size_);
    return false;
  }
  constexpr uint64_t kChunksMax = kMaxVirtualSize / kChunkSize;
  if (root_.trim_first_chunk > kChunksMax || root_.trim_chunk_count > kChunksMax) {
    corrupt("root block: impossible range of chunks to be emptied", format::kRootOffset);
  }
  if (root_.deleting_record == root_.active_record) {
    corrupt("root block: the active layer is being deleted", format::kRootOffset);
  }
  report_.committed_epoch = Epoch(root_.committed_epoch);
  claim_slot(format::kRootOffset, "root block");
  PCOW_TRY(check_log_targets());
  return true;
}

// Recovery refuses such a log: what it says would be stored over something else.
Result<void> Checker::check_log_targets() {
  const uint64_t log_offset = superblock_->log_offset;
  const uint64_t log_end = log_offset + superblock_->log_size;
  const auto look_at = [&](uint64_t page) -> Result<void> {
    if (!in_image(page, kPageSize, kPageSize) || (page >= log_offset && page < log_end)) {
      corrupt("log: a committed record for an offset outside the image or within the log", page);
    }
    return {};
  };
  PCOW_TRY(log_.for_each_page(0, UINT64_MAX, look_at));
  for (const auto& [window, pages] : log_.zeros) {
    if (!in_image(window, kWindowSize, kWindowSize) ||
        (window + kWindowSize > log_offset && window < log_end)) {
      corrupt("log: a committed record for an offset outside the image or within the log", window);
    }
  }
  return {};
}

void Checker::claim_slot(uint64_t offset, const char* name) {
  if (!slots_in_use_.insert(offset).second) {
    corrupt(std::string(name) + ": its slot is used twice", offset);
  }
}

Result<void> Checker::check_segment_table() {
  for (uint64_t index = 0; index < root_.segment_count; ++index) {
    const uint64_t slot = root_.segment_table[index / format::kSegmentsPerSlot];
    if (!in_image(slot, format::kSlotSize, format::kSlotSize)) {
      corrupt("root block: segment table slot outside the image", slot);
      return {};
    }
    if (index % format::kSegmentsPerSlot == 0) claim_slot(slot, "segment table");
    const uint64_t offset =
        slot + index % format::kSegmentsPerSlot / format::kSegmentsPerBlock * format::kBlockSize;
    Block block;
    PCOW_TRY_ASSIGN(const bool ok,
                    read_block(offset, BlockType::kSegmentTable, "segment table", block));
    const uint64_t first = index;
    const uint64_t count = std::min(format::kSegmentsPerBlock, root_.segment_count - first);
    index += count - 1;
    if (!ok) continue;
    const auto& table = block.as<format::SegmentTableBlock>();
    check_reserved(table.reserved, "segment table", offset);
    for (uint64_t i = 0; i < count; ++i) segments_[first + i] = table.entries[i];
    if (first + count == root_.segment_count) {
      PCOW_TRY(check_spare_blocks(slot, (offset - slot) / format::kBlockSize + 1,
                                  BlockType::kSegmentTable, "segment table"));
    }
  }
  const uint64_t slots =
      (root_.segment_count + format::kSegmentsPerSlot - 1) / format::kSegmentsPerSlot;
  for (uint64_t i = slots; i < format::kSegmentTableSlots; ++i) {
    if (root_.segment_table[i] == 0) continue;
    corrupt("root block: a segment table slot for segments that are not there",
            root_.segment_table[i]);
  }
  return check_segment_kinds();
}

Result<void> Checker::check_segment_kinds() {
  using format::SegmentKind;
  uint64_t quarantined = 0;
  for (const auto& [index, entry] : segments_) {
    const auto kind = static_cast<SegmentKind>(entry.kind);
    const uint64_t offset = index * kSegmentSize;
    const bool data = kind == SegmentKind::kData;
    // Dense segments need a feature bit.
    const bool known = kind == SegmentKind::kFree || kind == SegmentKind::kMetadata || data ||
                       kind == SegmentKind::kQuarantined || kind == SegmentKind::kLog;
    if (index == 0 ? kind != SegmentKind::kHeader : !known) {
      corrupt("segment table: impossible kind of segment " + std::to_string(index), offset);
    }
    const bool quarantine = kind == SegmentKind::kQuarantined;
    if ((entry.owner != 0 && !data && !quarantine) || (entry.epoch != 0 && !quarantine) ||
        entry.windows != decltype(entry.windows){}) {
      corrupt("segment table: impossible entry of segment " + std::to_string(index), offset);
    }
    check_reserved(entry.reserved, "segment table", offset);
    check_reserved(entry.reserved2, "segment table", offset);
    if (data) ++report_.segments;
    if (quarantine) ++quarantined;
    // The slot of a chunk table waits with its segment.
    if (quarantine && entry.owner != 0) {
      if (in_image(entry.owner, format::kSlotSize, format::kSlotSize)) {
        claim_slot(entry.owner, "quarantined chunk table");
      } else {
        corrupt("segment table: quarantined chunk table outside the image", entry.owner);
        continue;
      }
    }
    if (quarantine) PCOW_TRY(check_quarantined(index, entry));
    if (log_.filling.contains(offset) && !data && kind != SegmentKind::kFree) {
      corrupt("log: segment " + std::to_string(index) + " is filled, which is not for data",
              offset);
    }
    // Free means ready for a new owner: nothing in it may hold data.
    if (kind == SegmentKind::kFree) {
      PCOW_TRY(check_ownerless_space(offset, OwnedPages(kPagesPerSegment, false), nullptr));
    }
  }
  return check_quarantine_count(quarantined);
}

Result<CheckReport> check_image(const std::string& path, bool force_share,
                                const std::function<void(uint64_t, uint64_t)>& progress) {
  return memory_checked(path, [&]() -> Result<CheckReport> {
    PCOW_TRY_ASSIGN(File file, File::open(path, File::Mode::kRead));
    const Result<void> lock = file.lock(false);
    if (!lock && !(force_share && lock.error().code == Code::kBusy)) return lock.error();
    ImageReader reader(std::move(file), !lock.has_value());
    return Checker(reader, progress).run();
  });
}

}  // namespace pcow
