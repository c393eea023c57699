// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/new_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "pcow/base/no_memory.h"
#include "tools/common/failure.h"

namespace pcow_img {
namespace {

namespace fs = std::filesystem;

tools::Failure failure(int error, const std::string& what) {
  return tools::Failure(pcow::errno_error(error, what).message);
}

}  // namespace

ScratchFile::ScratchFile(const std::string& beside) : path_(pcow::temporary_name_beside(beside)) {}

ScratchFile::~ScratchFile() { unlink(path_.c_str()); }

NewFile::NewFile(const std::string& target, bool overwrite)
    : target_(target), overwrite_(overwrite), scratch_(target) {
  const std::string what = "cannot create '" + target + "'";
  struct stat st = {};
  if (lstat(target.c_str(), &st) != 0) {
    if (errno != ENOENT || target.empty()) throw failure(errno, what);
    const fs::path folder = fs::path(target).parent_path();
    if (access(folder.empty() ? "." : folder.c_str(), W_OK) != 0) throw failure(errno, what);
    return;
  }
  if (!overwrite) {
    throw tools::Failure(failure(EEXIST, what).what() + std::string("\nUse --force to replace it"));
  }
  replaced_ = tools::value_or_fail(pcow::File::open(target, pcow::File::Mode::kReadWrite));
  tools::value_or_fail(replaced_->lock(true));
}

void NewFile::publish() {
  const std::string what = "cannot complete '" + target_ + "'";
  const auto file = tools::value_or_fail(pcow::File::open(path(), pcow::File::Mode::kRead));
  tools::value_or_fail(file.sync_with_times());
  if (!overwrite_) {
    tools::value_or_fail(pcow::rename_to_new_name(path(), target_));
  } else if (std::rename(path().c_str(), target_.c_str()) != 0) {
    throw failure(errno, what);
  }
  auto durable =
      pcow::memory_checked(target_, [&] { return pcow::sync_parent_directory(target_); });
  // What was replaced cannot be brought back, but what is new can go.
  if (!durable && !replaced_) unlink(target_.c_str());
  tools::value_or_fail(std::move(durable));
}

}  // namespace pcow_img
