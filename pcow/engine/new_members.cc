// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/new_members.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "pcow/engine/stripe_set.h"
#include "pcow/engine/superblock_store.h"

namespace pcow {
namespace {

namespace fs = std::filesystem;

bool is_there(const std::string& path) {
  std::error_code error;
  return fs::exists(fs::symlink_status(path, error));
}

bool same_file(const std::string& one, const std::string& other) {
  std::error_code error;
  return fs::equivalent(one, other, error);
}

Error exists(const std::string& path) {
  return make_error(Code::kExists, "cannot create '" + path +
                                       "', a member of the stripe set: it exists, and is not of "
                                       "the set that is replaced; give another name, or remove it");
}

}  // namespace

// Files and links that exist.
Result<void> NewMembers::check_existing(Member& member,
                                        const std::optional<format::Uuid>& replaced) {
  if (!member.link.empty() && is_there(member.link) && !same_file(member.link, member.path)) {
    return exists(member.link);
  }
  if (!is_there(member.path)) {
    return !member.link.empty() && is_there(member.link) ? Result<void>(exists(member.link))
                                                         : Result<void>();
  }
  if (!replaced) return exists(member.path);
  PCOW_TRY_ASSIGN(File old, File::open(member.path, File::Mode::kReadWrite));
  PCOW_TRY(old.lock(true));
  ImageFile files(std::move(old));
  PCOW_TRY_ASSIGN(const std::optional<SuperblockStore> store,
                  SuperblockStore::load_if_image(files));
  if (!store || store->current().member_index == 0 || store->current().set_uuid != *replaced) {
    return exists(member.path);
  }
  member.old = std::move(files).take_first();
  return {};
}

Result<NewMembers> NewMembers::plan(const std::string& image_path,
                                    const std::vector<std::string>& paths,
                                    const std::optional<format::Uuid>& replaced) {
  NewMembers planned;
  const fs::path directory = fs::path(image_path).parent_path();
  std::vector<std::string> taken = {fs::path(image_path).filename().string()};
  for (const std::string& path : paths) {
    const fs::path given(path);
    Member member;
    member.name = given.filename().string();
    member.path = (directory / given).string();
    if (!is_member_name(member.name)) {
      return make_error(Code::kInvalid, "'" + path +
                                            "' cannot be a member of a stripe set: the name of the "
                                            "file has 1 to 231 bytes");
    }
    if (std::ranges::find(taken, member.name) != taken.end()) {
      return make_error(Code::kInvalid, "two files of the stripe set are called '" + member.name +
                                            "': give each a name of its own, also in different "
                                            "directories");
    }
    taken.push_back(member.name);
    if (given.has_parent_path()) member.link = (directory / member.name).string();
    // "./name" is beside the image already.
    if (same_file(given.has_parent_path() ? (directory / given.parent_path()).string() : "",
                  directory.empty() ? "." : directory.string())) {
      member.link.clear();
    }
    PCOW_TRY(check_existing(member, replaced));
    planned.members_.push_back(std::move(member));
  }
  return planned;
}

NewMembers::~NewMembers() {
  for (const Member& member : members_) {
    const char* created = member.created.c_str();
    // What goes wrong here leaves the replaced file under its other name.
    if (!member.moved.empty() &&
        ::renameat2(AT_FDCWD, member.moved.c_str(), AT_FDCWD, created, RENAME_EXCHANGE) == 0) {
      created = member.moved.c_str();
    }
    if (*created != '\0') ::unlink(created);
    if (member.linked) ::unlink(member.link.c_str());
  }
}

std::vector<std::string> NewMembers::names() const {
  std::vector<std::string> names;
  for (const Member& member : members_) names.push_back(member.name);
  return names;
}

std::vector<std::string> NewMembers::paths() const {
  std::vector<std::string> paths;
  for (const Member& member : members_) paths.push_back(member.created);
  return paths;
}

Result<std::vector<File>> NewMembers::create(bool staged) {
  std::vector<File> files;
  for (Member& member : members_) {
    std::string path = staged ? temporary_name_beside(member.path) : member.path;
    PCOW_TRY_ASSIGN(File file, File::open(path, File::Mode::kCreate));
    member.created = std::move(path);
    PCOW_TRY(file.lock(true));
    files.push_back(std::move(file));
  }
  return files;
}

Result<void> NewMembers::publish_file(Member& member) {
  std::string path = member.path;  // before anything that want of memory could not undo
  if (!member.old) {
    PCOW_TRY(rename_to_new_name(member.created, path));
    member.created = std::move(path);
    return {};
  }
  // The files change places, so that an error later on can be undone.
  const char* const from = member.created.c_str();
  if (::renameat2(AT_FDCWD, from, AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
    member.moved = std::exchange(member.created, std::move(path));
    return {};
  }
  // Not every file system can do that.
  const bool unknown = errno == EINVAL || errno == ENOSYS;
  if (!unknown || std::rename(from, path.c_str()) != 0) {
    return errno_error(errno, "cannot replace '" + member.path + "'");
  }
  member.created = std::move(path);
  return {};
}

Result<void> NewMembers::publish_link(Member& member) {
  if (member.link.empty() || is_there(member.link)) return {};
  // From the directory of the link, unless absolute, like the path that was given.
  const fs::path directory = fs::path(member.link).parent_path();
  const fs::path target = fs::path(member.path).is_absolute() || directory.empty()
                              ? fs::path(member.path)
                              : fs::path(member.path).lexically_relative(directory);
  if (::symlink(target.c_str(), member.link.c_str()) != 0) {
    return errno_error(errno,
                       "cannot create '" + member.link + "', a link to '" + member.path + "'");
  }
  member.linked = true;
  return sync_parent_directory(member.link);
}

Result<void> NewMembers::publish() {
  for (Member& member : members_) {
    if (member.created != member.path) PCOW_TRY(publish_file(member));
    PCOW_TRY(sync_parent_directory(member.path));
    PCOW_TRY(publish_link(member));
  }
  return {};
}

void NewMembers::keep() {
  for (const Member& member : members_) {
    if (!member.moved.empty()) ::unlink(member.moved.c_str());
  }
  members_.clear();
}

}  // namespace pcow
