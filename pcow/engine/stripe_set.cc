// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/stripe_set.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "pcow/base/printable.h"

namespace pcow {
namespace {

using format::Superblock;
using format::Uuid;

// An error about a member, for somebody who opened the image. The name comes from the image.
Error of_set(Error error, const std::string& image_path, size_t index) {
  error.message = printable("cannot open member " + std::to_string(index) + " of stripe set '" +
                            image_path + "': " + error.message);
  return error;
}

std::string name_in(const format::StripeRecord& record) {
  const auto end = std::find(record.name.begin(), record.name.end(), '\0');
  return {record.name.begin(), end};
}

// The names in the table that the superblock of the first file names.
Result<std::vector<format::StripeRecord>> read_table(const ImageFile& file, const Superblock& sb) {
  format::Block block;
  PCOW_TRY(file.read(format::kStripeTableOffset, block.bytes));
  std::string defect = format::block_defect(block, format::BlockType::kStripeTable,
                                            format::kStripeTableOffset, sb.uuid);
  const auto& table = block.as<format::StripeTableBlock>();
  const uint32_t count = sb.stripe_count;
  if (defect.empty() && table.count != count) defect = "it is of another number of files";
  std::vector<format::StripeRecord> records;
  for (uint32_t i = 0; i + 1 < count && defect.empty(); ++i) {
    const format::StripeRecord& record = table.members.at(i);
    const bool possible = record.name.back() == '\0' && record.name_length != 0 &&
                          record.name_length == name_in(record).size() &&
                          is_member_name(name_in(record));
    if (!possible) defect = "impossible name of a member";
    records.push_back(record);
  }
  if (defect.empty()) return records;
  return make_error(Code::kCorrupt, "'" + file.path() + "' is damaged: stripe table at offset " +
                                        std::to_string(format::kStripeTableOffset) + ": " + defect +
                                        "; restore the file from a copy");
}

// How a member of this session came to be here.
std::string why_other_session(const Superblock& member, const Superblock& first) {
  if (member.generation < first.generation) return "it is older than the rest, an old copy";
  if (member.generation > first.generation) {
    return "it is newer than the first file, of which this is an old copy";
  }
  return "it is of another time, or another copy of the set, than the rest";
}

Result<void> check_member(const Superblock& member, const Superblock& first, uint32_t index,
                          const std::string& path, bool locked) {
  const std::string name = "'" + path + "' ";
  if (member.set_uuid != first.set_uuid || member.member_index == 0) {
    return make_error(Code::kForeign, name + "is not of this set but " +
                                          (member.stripe_count > 1 ? "a file of another one"
                                                                   : "an image of its own") +
                                          "; put the right file in its place");
  }
  if (member.stripe_count != first.stripe_count ||
      member.stripe_unit_windows != first.stripe_unit_windows) {
    return make_error(
        Code::kCorrupt,
        name + "is of a set of " + std::to_string(member.stripe_count) + " files with " +
            std::to_string(member.stripe_unit_windows) + " windows a unit, and this one has " +
            std::to_string(first.stripe_count) + " with " +
            std::to_string(first.stripe_unit_windows) + "; put the right file in its place");
  }
  if (member.member_index != index) {
    return make_error(Code::kCorrupt, name + "is member " + std::to_string(member.member_index) +
                                          ": files of the set were swapped; give each its own name "
                                          "again");
  }
  const bool announced = first.next_session != Uuid{} && member.session == first.next_session;
  if (locked && member.session != first.session && !announced) {
    return make_error(Code::kCorrupt, name + "does not go with the other files: " +
                                          why_other_session(member, first) +
                                          "; what the set shows would be wrong: restore all of its "
                                          "files from one time");
  }
  return {};
}

}  // namespace

bool is_member_name(const std::string& name) {
  return !name.empty() && name.size() < sizeof(format::StripeRecord::name) && name != "." &&
         name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Superblock member_superblock(const Superblock& first, uint32_t index, const Uuid& uuid) {
  Superblock sb{};
  sb.magic = first.magic;
  sb.version = first.version;
  sb.header_length = first.header_length;
  sb.incompatible = format::kIncompatibleStripe;
  sb.uuid = uuid;
  sb.generation = first.generation;
  sb.created_ns = first.created_ns;
  sb.line_shift = first.line_shift;
  sb.page_shift = first.page_shift;
  sb.chunk_shift = first.chunk_shift;
  sb.segment_shift = first.segment_shift;
  sb.stripe_count = first.stripe_count;
  sb.stripe_unit_windows = first.stripe_unit_windows;
  sb.member_index = index;
  sb.set_uuid = first.set_uuid;
  sb.session = first.session;
  return sb;
}

format::Block stripe_table(const std::vector<std::string>& names, const std::vector<Uuid>& uuids,
                           const Uuid& image) {
  format::Block block;
  format::init_header(block, format::BlockType::kStripeTable, format::kStripeTableOffset, 0, image);
  auto& table = block.as<format::StripeTableBlock>();
  table.count = static_cast<uint32_t>(names.size() + 1);
  for (size_t i = 0; i < names.size(); ++i) {
    format::StripeRecord& record = table.members.at(i);
    record.uuid = uuids[i];
    record.name_length = static_cast<uint32_t>(names[i].size());
    std::ranges::copy(names[i], record.name.begin());
  }
  format::seal(block);
  return block;
}

Result<StripeSet> StripeSet::open(ImageFile& file, const Superblock& sb, const OpenOptions& options,
                                  bool locked, OpenFiles& files,
                                  const std::vector<std::string>* paths) {
  StripeSet set;
  if (sb.stripe_count == 1) return set;
  const std::string path = file.path();
  const std::filesystem::path directory = std::filesystem::path(path).parent_path();
  const bool writable = options.access == Access::kReadWrite;
  PCOW_TRY_ASSIGN(const std::vector<format::StripeRecord> records, read_table(file, sb));
  std::vector<File> opened;
  const auto open_member = [&](const std::string& place) -> Result<void> {
    PCOW_TRY_ASSIGN(File member,
                    File::open(place, writable ? File::Mode::kReadWrite : File::Mode::kRead));
    PCOW_TRY(note_file(member, files, "is open already, as another of these files"));
    const Result<void> lock = member.lock(writable);
    if (!lock && !(options.force_share && lock.error().code == Code::kBusy)) return lock.error();
    opened.push_back(std::move(member));
    return {};
  };
  for (size_t i = 0; i < records.size(); ++i) {
    set.names_.push_back(name_in(records[i]));
    const Result<void> result =
        open_member(paths != nullptr ? paths->at(i) : (directory / set.names_.back()).string());
    if (!result) return of_set(result.error(), path, i + 1);
  }
  file.add_members(std::move(opened), sb.stripe_unit_windows);
  for (uint32_t index = 1; index < file.count(); ++index) {
    const auto load = [&]() -> Result<void> {
      PCOW_TRY_ASSIGN(SuperblockStore store, SuperblockStore::load(file, index));
      PCOW_TRY(check_member(store.current(), sb, index, file.member(index).path(), locked));
      if (store.current().uuid != records[index - 1].uuid) {
        return make_error(Code::kForeign, "'" + file.member(index).path() +
                                              "' is not the file that the set was made with; put "
                                              "the right file in its place");
      }
      set.warnings_.insert(set.warnings_.end(), store.warnings().begin(), store.warnings().end());
      set.members_.push_back(std::move(store));
      return {};
    };
    const Result<void> loaded = load();
    if (!loaded) return of_set(loaded.error(), path, index);
  }
  PCOW_TRY(file.check_holds(kSegmentSize));
  return set;
}

// Three steps, each durable before the next begins:
//   1. the first file announces the session,      members have the session before, or, after a
//   2. the members get it,                        crash in 2, some have the announced one: both
//   3. the caller updates the first file.         are right, and the announced one is used again
Result<void> StripeSet::begin_session(Media& media, SuperblockStore& superblocks) {
  if (members_.empty()) return {};
  members_ready_ = false;
  Superblock next = superblocks.current();
  if (next.next_session == Uuid{}) {
    next.next_session = format::new_uuid();
    PCOW_TRY(superblocks.update(media, next));
  }
  PCOW_TRY(media.flush());
  for (SuperblockStore& member : members_) {
    Superblock sb = member.current();
    sb.session = next.next_session;
    sb.generation = next.generation;
    PCOW_TRY(member.update(media, sb));
  }
  PCOW_TRY(media.flush());
  members_ready_ = true;
  return {};
}

void StripeSet::take_session(Superblock& next) const {
  if (!members_ready_ || next.next_session == Uuid{}) return;
  next.session = std::exchange(next.next_session, Uuid{});
}

}  // namespace pcow
