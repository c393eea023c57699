// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/superblock_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "pcow/format/block.h"

namespace pcow {
namespace {

using format::Superblock;

enum class CopyState { kAbsent, kForeign, kOtherVersion, kDamaged, kValid };

struct Copy {
  CopyState state = CopyState::kAbsent;
  Superblock content{};
};

Result<Copy> read_copy(const File& file, uint32_t index, uint64_t file_size) {
  Copy copy;
  const uint64_t offset = format::kSuperblockOffset[index];
  const uint64_t there = file_size > offset ? std::min(file_size - offset, sizeof(Superblock)) : 0;
  if (there == 0) return copy;
  PCOW_TRY(file.read(offset, std::as_writable_bytes(std::span(&copy.content, 1)).first(there)));
  const Superblock& sb = copy.content;
  if (sb.magic != format::kSuperblockMagic) {
    copy.state = CopyState::kForeign;
  } else if (sb.version != format::kVersion) {
    copy.state = CopyState::kOtherVersion;
  } else if (there < sizeof(Superblock) || sb.header_length != sizeof(Superblock) ||
             !format::superblock_checksum_ok(sb) || sb.copy != index) {
    copy.state = CopyState::kDamaged;
  } else {
    copy.state = CopyState::kValid;
  }
  return copy;
}

// What a file without our magic is, for the message.
std::string_view foreign_kind(const Copy& first, uint64_t file_size) {
  const std::string_view head(reinterpret_cast<const char*>(&first.content), 16);
  if (file_size == 0) return "it is empty";
  if (head.starts_with("QFI\xfb")) return "it is a qcow2 image";
  if (head.substr(12) == "NBJL") return "it is an image of the older pcow format (NBJL)";
  return "it has no pcow header (a raw image?)";
}

Error no_valid_copy(const std::array<Copy, 2>& copies, const std::string& path,
                    uint64_t file_size) {
  const std::string name = "'" + path + "'";
  for (const Copy& copy : copies) {
    if (copy.state == CopyState::kOtherVersion) {
      return make_error(Code::kUnsupported,
                        name + " has format version " + std::to_string(copy.content.version) +
                            "; this program knows version " + std::to_string(format::kVersion) +
                            " (or both superblocks are damaged): use the program that wrote it");
    }
  }
  for (const Copy& copy : copies) {
    if (copy.state == CopyState::kDamaged) {
      return make_error(Code::kCorrupt, name +
                                            " is damaged: neither superblock copy has a valid "
                                            "checksum; restore the file from a copy");
    }
  }
  return make_error(Code::kForeign, name + " is not a pcow image: " +
                                        std::string(foreign_kind(copies[0], file_size)) +
                                        "; create one with 'pcow-img create'");
}

std::string features_text(uint64_t bits) {
  static constexpr std::array<std::string_view, 5> kNames = {"base", "layers", "stripe", "dense",
                                                             "zero-chunks"};
  std::string text;
  for (size_t bit = 0; bit < 64; ++bit) {
    if ((bits >> bit & 1) == 0) continue;
    if (!text.empty()) text += ", ";
    text += bit < kNames.size() ? std::string(kNames[bit]) : "bit " + std::to_string(bit);
  }
  return text;
}

// Whether the fields about stripes can be so.
bool stripe_is_possible(const Superblock& sb) {
  if ((sb.incompatible & format::kIncompatibleStripe) == 0) {
    return sb.stripe_count == 1 && sb.stripe_unit_windows == 0 && sb.member_index == 0 &&
           sb.set_uuid == format::Uuid{} && sb.stripe_table_offset == 0 &&
           sb.session == format::Uuid{} && sb.next_session == format::Uuid{};
  }
  const uint64_t table = sb.member_index == 0 ? format::kStripeTableOffset : 0;
  return is_stripe_geometry(sb.stripe_count, sb.stripe_unit_windows) &&
         sb.member_index < sb.stripe_count && sb.stripe_table_offset == table &&
         sb.set_uuid != format::Uuid{} && sb.session != format::Uuid{};
}

// Of the first file: where its root and its log are.
bool places_are_possible(const Superblock& sb) {
  // In the first segment, or from the start of another: what these are for, the open looks at.
  const bool segment = sb.log_offset < kSegmentSize ? sb.log_offset + sb.log_size <= kSegmentSize
                                                    : sb.log_offset % kSegmentSize == 0;
  const bool log = segment && sb.log_size >= format::kMinLogSize &&
                   sb.log_size < format::kLogSizeEnd && sb.log_size % kWindowSize == 0 &&
                   sb.log_offset % kWindowSize == 0 && sb.log_offset >= 2 * kWindowSize &&
                   sb.log_offset <= format::kMaxSegments * kSegmentSize - sb.log_size &&
                   sb.log_tail % kLineSize == 0 && sb.log_tail < format::kLogTailEnd;
  return log && sb.root_offset == format::kRootOffset;
}

// The checksum is right, so a wrong field is a forged or foreign-made image, not a bit flip.
Result<void> validate(const Superblock& sb, const std::string& path) {
  const std::string name = "'" + path + "'";
  if (const uint64_t unknown = sb.incompatible & ~format::kIncompatibleSupported; unknown != 0) {
    return make_error(Code::kUnsupported, name + " uses features this version does not support (" +
                                              features_text(unknown) + "): use a newer version");
  }
  const bool geometry =
      sb.line_shift == 6 && sb.page_shift == 12 && sb.chunk_shift == 21 && sb.segment_shift == 30;
  const bool first = sb.member_index == 0;
  if (!geometry || sb.sequence == 0 || sb.uuid == format::Uuid{} || !stripe_is_possible(sb) ||
      (first && !places_are_possible(sb))) {
    return make_error(Code::kCorrupt, name +
                                          " is damaged: its superblock has a valid checksum but "
                                          "impossible values; restore the file from a copy");
  }
  return {};
}

}  // namespace

bool is_stripe_geometry(uint64_t count, uint64_t unit_windows) {
  return count >= 2 && count <= format::kMaxStripeFiles && std::has_single_bit(count) &&
         std::has_single_bit(unit_windows) && unit_windows <= kChunksPerSegment / count;
}

Result<SuperblockStore> SuperblockStore::load(const ImageFile& files, uint32_t index) {
  PCOW_TRY_ASSIGN(SuperblockStore store, choose(files, index));
  PCOW_TRY(validate(store.current_, files.member(index).path()));
  const Superblock& sb = store.current_;
  if (index == 0 && sb.member_index != 0) {
    return make_error(Code::kUnsupported,
                      "'" + files.path() + "' is member " + std::to_string(sb.member_index) +
                          " of a stripe set, and nothing by itself: name the first file of the "
                          "set, which names the others");
  }
  return store;
}

Result<SuperblockStore> SuperblockStore::load_any(const ImageFile& file) {
  PCOW_TRY_ASSIGN(SuperblockStore store, choose(file, 0));
  PCOW_TRY(validate(store.current_, file.path()));
  return store;
}

Result<std::optional<SuperblockStore>> SuperblockStore::load_if_image(const ImageFile& file) {
  Result<SuperblockStore> store = load_any(file);
  if (store) return std::optional(*std::move(store));
  if (store.error().sys_errno != 0) return std::move(store).error();
  return std::optional<SuperblockStore>();
}

Result<SuperblockStore> SuperblockStore::choose(const ImageFile& files, uint32_t index) {
  const File& file = files.member(index);
  const std::string& path = file.path();
  PCOW_TRY_ASSIGN(const uint64_t file_size, file.size());
  std::array<Copy, 2> copies;
  for (uint32_t i = 0; i < 2; ++i) {
    PCOW_TRY_ASSIGN(copies[i], read_copy(file, i, file_size));
  }
  const bool valid0 = copies[0].state == CopyState::kValid;
  const bool valid1 = copies[1].state == CopyState::kValid;
  if (!valid0 && !valid1) return no_valid_copy(copies, path, file_size);

  const bool take1 = valid1 && (!valid0 || copies[1].content.sequence > copies[0].content.sequence);
  SuperblockStore store;
  store.current_ = copies[take1 ? 1 : 0].content;
  store.index_ = index;
  if (take1) store.write_order_ = {0, 1};
  if (!take1) store.write_order_ = {1, 0};
  if (!valid0 || !valid1) {
    store.warnings_.push_back("superblock copy " + std::string(valid0 ? "1" : "0") + " of '" +
                              path + "' is damaged, copy " + std::string(valid0 ? "0" : "1") +
                              " is used; the next writable open restores it");
  }
  return store;
}

Result<void> SuperblockStore::update(Media& media, Superblock next) {
  if (second_unflushed_) PCOW_TRY(media.flush());
  next.sequence = current_.sequence + 1;
  const auto write_copy = [&](uint32_t index) {
    next.copy = index;
    format::seal_superblock(next);
    return media.write(&StoredBytes::metadata,
                       ImageFile::header_offset(index_) + format::kSuperblockOffset[index],
                       std::as_bytes(std::span(&next, 1)));
  };
  PCOW_TRY(write_copy(write_order_[0]));
  PCOW_TRY(media.flush());
  second_unflushed_ = true;
  PCOW_TRY(write_copy(write_order_[1]));
  current_ = next;
  write_order_ = {0, 1};
  return {};
}

}  // namespace pcow
