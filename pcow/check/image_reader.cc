// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/check/image_reader.h"

#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "pcow/base/printable.h"

namespace pcow {
namespace {

using format::StripeTableBlock;
using format::Superblock;
using format::Uuid;

// False behind the end.
Result<bool> read_file(const File& file, uint64_t offset, std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        pread(file.fd(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(errno, "cannot read '" + file.path() + "'");
    if (n == 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

// A plain name, and zeros behind it.
std::optional<std::string> plain_name(const format::StripeRecord& record) {
  const size_t length = record.name_length;
  if (length == 0 || length >= record.name.size()) return std::nullopt;
  for (size_t i = 0; i < record.name.size(); ++i) {
    const char c = record.name[i];
    if ((i < length) == (c == '\0') || c == '/') return std::nullopt;
  }
  std::string name(record.name.data(), length);
  if (name == "." || name == "..") return std::nullopt;
  return name;
}

bool all_zero(const format::StripeRecord& record) {
  const format::StripeRecord none{};
  return std::memcmp(&record, &none, sizeof(none)) == 0;
}

bool is_superblock(const Superblock& sb, uint32_t copy) {
  return sb.magic == format::kSuperblockMagic && sb.version == format::kVersion &&
         sb.header_length == sizeof(sb) && sb.copy == copy && format::superblock_checksum_ok(sb);
}

// What every superblock says, whichever file it is of.
bool is_possible(const Superblock& sb) {
  return sb.line_shift == 6 && sb.page_shift == 12 && sb.chunk_shift == 21 &&
         sb.segment_shift == 30 && sb.sequence != 0 && sb.uuid != Uuid{};
}

// What a member's superblock leaves to the first file is zero.
bool has_only_member_fields(const Superblock& sb) {
  Superblock rest = sb;
  for (Le64* field :
       {&rest.root_offset, &rest.log_offset, &rest.log_size, &rest.log_tail, &rest.log_generation,
        &rest.checkpointed_epoch, &rest.compatible, &rest.autoclear, &rest.stripe_table_offset}) {
    if (*field != 0) return false;
  }
  const format::BaseReference no_base{};
  return rest.state == 0 && rest.reserved == 0 && rest.next_session == Uuid{} &&
         std::memcmp(&rest.base, &no_base, sizeof(no_base)) == 0 &&
         std::ranges::all_of(rest.reserved2, [](uint8_t byte) { return byte == 0; }) &&
         std::ranges::all_of(rest.reserved3, [](uint8_t byte) { return byte == 0; });
}

}  // namespace

// Unit u of image space is unit u / N of file u mod N; every file but the first has one window of
// its own in front.
ImageReader::Piece ImageReader::piece_at(uint64_t offset) const {
  if (files_.size() == 1) return {&files_.front(), offset, UINT64_MAX - offset};
  const uint64_t unit_bytes = unit_windows_ << std::countr_zero(kWindowSize);
  const uint64_t unit = offset / unit_bytes;
  const uint64_t inside = offset - unit * unit_bytes;
  const uint64_t file = unit % files_.size();
  const uint64_t own = file == 0 ? 0 : kWindowSize;
  return {&files_[file], own + unit / files_.size() * unit_bytes + inside, unit_bytes - inside};
}

Result<uint64_t> ImageReader::size() const {
  PCOW_TRY_ASSIGN(uint64_t size, files_.front().size());
  if (files_.size() == 1) return size;
  size = size / (kSegmentSize / files_.size());
  for (size_t i = 1; i < files_.size(); ++i) {
    PCOW_TRY_ASSIGN(const uint64_t length, files_[i].size());
    const uint64_t data = length < kWindowSize ? 0 : length - kWindowSize;
    size = std::min(size, data / (kSegmentSize / files_.size()));
  }
  return size * kSegmentSize;
}

Result<bool> ImageReader::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const Piece piece = piece_at(offset);
    const size_t step = std::min<uint64_t>(out.size(), piece.length);
    PCOW_TRY_ASSIGN(const bool there, read_file(*piece.file, piece.offset, out.first(step)));
    if (!there) return false;
    offset += step;
    out = out.subspan(step);
  }
  return true;
}

// What takes space, also where nothing was ever written, which lseek(2) calls a hole. False: the
// file system does not say. (Documentation/filesystems/fiemap.rst)
Result<bool> ImageReader::for_each_extent(const Piece& piece, uint64_t at, uint64_t length,
                                          const Visitor& visit) {
  constexpr uint32_t kExtents = 128;
  alignas(fiemap) std::array<std::byte, sizeof(fiemap) + kExtents * sizeof(fiemap_extent)> room;
  auto* const map = reinterpret_cast<fiemap*>(room.data());
  const uint64_t stop = piece.offset + length;
  for (uint64_t from = piece.offset; from < stop;) {
    room.fill(std::byte{0});
    map->fm_start = from;
    map->fm_length = stop - from;
    map->fm_flags = FIEMAP_FLAG_SYNC;
    map->fm_extent_count = kExtents;
    if (ioctl(piece.file->fd(), FS_IOC_FIEMAP, map) != 0) {
      if (from == piece.offset) return false;
      return errno_error(errno, "cannot look for space in '" + piece.file->path() + "'");
    }
    const auto extents = std::span(map->fm_extents, map->fm_mapped_extents);
    for (const fiemap_extent& extent : extents) {
      const uint64_t begin = std::max<uint64_t>(extent.fe_logical, from);
      const uint64_t past = std::min<uint64_t>(extent.fe_logical + extent.fe_length, stop);
      if (begin < past) PCOW_TRY(visit(at + (begin - piece.offset), at + (past - piece.offset)));
      from = std::max(from, past);
    }
    if (extents.size() < kExtents) break;
  }
  return true;
}

Result<void> ImageReader::for_each_data(uint64_t first, uint64_t end, const Visitor& visit) const {
  for (uint64_t at = first; at < end;) {
    const Piece piece = piece_at(at);
    const std::string& path = piece.file->path();
    const uint64_t length = std::min(piece.length, end - at);
    const uint64_t stop = piece.offset + length;
    PCOW_TRY_ASSIGN(const bool done, for_each_extent(piece, at, length, visit));
    if (done) {
      at += length;
      continue;
    }
    for (uint64_t from = piece.offset; from < stop;) {
      const off_t data = lseek(piece.file->fd(), static_cast<off_t>(from), SEEK_DATA);
      if (data < 0 && errno != ENXIO) {
        return errno_error(errno, "cannot look for data in '" + path + "'");
      }
      if (data < 0 || static_cast<uint64_t>(data) >= stop) break;
      const off_t hole = lseek(piece.file->fd(), data, SEEK_HOLE);
      if (hole < 0) return errno_error(errno, "cannot look for holes in '" + path + "'");
      from = std::min(static_cast<uint64_t>(hole), stop);
      PCOW_TRY(
          visit(at + (static_cast<uint64_t>(data) - piece.offset), at + (from - piece.offset)));
    }
    at += length;
  }
  return {};
}

Result<bool> ImageReader::is_data(uint64_t page) const {
  bool found = false;
  PCOW_TRY(for_each_data(page, page + kPageSize, [&](uint64_t, uint64_t) -> Result<void> {
    found = true;
    return {};
  }));
  return found;
}

Result<uint64_t> ImageReader::disk_bytes() const {
  uint64_t bytes = 0;
  for (const File& file : files_) {
    PCOW_TRY_ASSIGN(const uint64_t here, file.disk_bytes());
    bytes += here;
  }
  return bytes;
}

Result<uint64_t> ImageReader::hidden_bytes() const {
  uint64_t hidden = 0;
  for (const File& file : files_) {
    if (!file.on_tmpfs()) continue;
    PCOW_TRY_ASSIGN(const uint64_t length, file.size());
    PCOW_TRY_ASSIGN(const uint64_t occupied, file.disk_bytes());
    uint64_t shown = 0;
    for (uint64_t from = 0; from < length;) {
      PCOW_TRY_ASSIGN(const uint64_t data, file.find_data(from, length));
      if (data == length) break;
      const off_t hole = lseek(file.fd(), static_cast<off_t>(data), SEEK_HOLE);
      if (hole < 0) return errno_error(errno, "cannot look for holes in '" + file.path() + "'");
      from = static_cast<uint64_t>(hole);
      shown += round_up(from, kPageSize) - data / kPageSize * kPageSize;
    }
    hidden += occupied - std::min(occupied, shown);
  }
  return hidden;
}

// Refuses a file that is open already: its lock would wait for ourselves.
Result<void> ImageReader::open_member(const format::StripeRecord& record) {
  const std::filesystem::path directory = std::filesystem::path(path()).parent_path();
  PCOW_TRY_ASSIGN(File file,
                  File::open((directory / *plain_name(record)).string(), File::Mode::kRead));
  const auto look = [](const File& at, struct stat& st) {
    if (fstat(at.fd(), &st) == 0) return Result<void>();
    return Result<void>(errno_error(errno, "cannot stat '" + at.path() + "'"));
  };
  struct stat mine = {};
  PCOW_TRY(look(file, mine));
  for (const File& other : files_) {
    struct stat theirs = {};
    PCOW_TRY(look(other, theirs));
    if (mine.st_dev == theirs.st_dev && mine.st_ino == theirs.st_ino) {
      return make_error(Code::kCorrupt,
                        "'" + file.path() + "' and '" + other.path() + "' are the same file");
    }
  }
  const Result<void> lock = file.lock(false);
  if (!lock && !(live_ && lock.error().code == Code::kBusy)) return lock.error();
  files_.push_back(std::move(file));
  return {};
}

Result<bool> ImageReader::check_member(uint32_t index, const Superblock& first,
                                       const format::StripeRecord& record,
                                       const Report& report) const {
  const File& file = files_[index];
  const std::string name = "member '" + printable(file.path()) + "'";
  std::optional<Superblock> sb;
  for (uint32_t copy = 0; copy < 2; ++copy) {
    Superblock found{};
    PCOW_TRY_ASSIGN(const bool there, read_file(file, format::kSuperblockOffset.at(copy),
                                                std::as_writable_bytes(std::span(&found, 1))));
    if (!there || !is_superblock(found, copy)) {
      report("superblock copy " + std::to_string(copy) + " of " + name + ": not valid",
             format::kSuperblockOffset.at(copy));
    } else if (!sb || found.sequence > sb->sequence) {
      sb = found;
    }
  }
  if (!sb) return false;
  std::string wrong;
  const bool current = sb->session == first.session;
  const bool next = first.next_session != Uuid{} && sb->session == first.next_session;
  if (!is_possible(*sb)) {
    wrong = "impossible values under a valid checksum";
  } else if ((sb->incompatible & format::kIncompatibleStripe) == 0 ||
             sb->set_uuid != first.set_uuid) {
    wrong = "not of this stripe set";
  } else if (sb->member_index != index) {
    wrong = "it is member " + std::to_string(sb->member_index) + ", and named as member " +
            std::to_string(index);
  } else if (sb->stripe_count != first.stripe_count ||
             sb->stripe_unit_windows != first.stripe_unit_windows) {
    wrong = "it is of a set of another shape";
  } else if (sb->uuid != record.uuid) {
    wrong = "it is not the file that the set was made with";
  } else if (!live_ && !current && !next) {
    wrong = "it is of another session than the first file";
  } else if (sb->incompatible != format::kIncompatibleStripe || !has_only_member_fields(*sb)) {
    wrong = "its superblock says what only that of the first file may";
  }
  if (wrong.empty()) return true;
  report(name + ": " + wrong, 0);
  return false;
}

Result<bool> ImageReader::open_members(const Superblock& first, const Report& report) {
  if (first.stripe_count == 1) return true;
  format::Block block;
  PCOW_TRY_ASSIGN(const bool there,
                  read_file(files_.front(), format::kStripeTableOffset, block.bytes));
  const std::string defect = there ? format::block_defect(block, format::BlockType::kStripeTable,
                                                          format::kStripeTableOffset, first.uuid)
                                   : "past the end";
  const auto& table = block.as<StripeTableBlock>();
  if (!defect.empty() || table.count != first.stripe_count) {
    report("stripe table: " + (defect.empty() ? "another number of files" : defect),
           format::kStripeTableOffset);
    return false;
  }
  const auto zero = [](uint8_t byte) { return byte == 0; };
  bool sound =
      std::ranges::all_of(table.reserved, zero) && std::ranges::all_of(table.reserved2, zero);
  for (uint32_t i = 0; i < table.members.size(); ++i) {
    const format::StripeRecord& record = table.members.at(i);
    if (i + 1 >= first.stripe_count) {
      sound &= all_zero(record);
    } else if (!plain_name(record)) {
      report("stripe table: impossible name of member " + std::to_string(i + 1),
             format::kStripeTableOffset);
      return false;
    } else {
      sound &= std::ranges::all_of(record.reserved, zero);
    }
  }
  if (!sound) report("stripe table: reserved bytes are not zero", format::kStripeTableOffset);
  for (uint32_t i = 0; i + 1 < first.stripe_count; ++i) PCOW_TRY(open_member(table.members.at(i)));
  unit_windows_ = first.stripe_unit_windows;
  bool usable = true;
  for (uint32_t i = 1; i < first.stripe_count; ++i) {
    PCOW_TRY_ASSIGN(const bool ok, check_member(i, first, table.members.at(i - 1), report));
    usable &= ok;
  }
  if (!usable) return false;
  return holds(kSegmentSize, report);
}

Result<bool> ImageReader::holds(uint64_t size, const Report& report) const {
  if (files_.size() == 1) return true;
  bool all = true;
  for (size_t i = 0; i < files_.size(); ++i) {
    PCOW_TRY_ASSIGN(const uint64_t length, files_[i].size());
    const uint64_t needed = (i == 0 ? 0 : kWindowSize) + size / files_.size();
    if (length >= needed) continue;
    all = false;
    report((i == 0 ? "'" : "member '") + printable(files_[i].path()) +
               "': it is truncated: it has " + std::to_string(length) + " bytes instead of " +
               std::to_string(round_up(needed, kSegmentSize)) + ", and ends",
           length);
  }
  return all;
}

}  // namespace pcow
