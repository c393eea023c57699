// SPDX-License-Identifier: BSD-3-Clause
//
// Files that exist under their names only once they are complete. Errors are thrown as
// tools::Failure.
#pragma once

#include <optional>
#include <string>

#include "pcow/media/file.h"

namespace pcow_img {

// A name in the directory of another file that no file has; what is written there is removed at the
// end of the scope.
class ScratchFile {
 public:
  explicit ScratchFile(const std::string& beside);
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// Appears under its name by publish(); until then, nothing is there or what was there before.
class NewFile {
 public:
  // Refuses a target that exists, unless `overwrite`: then one that is in use, and what is not a
  // regular file. Nothing is created yet.
  NewFile(const std::string& target, bool overwrite);

  // Where to write it.
  const std::string& path() const { return scratch_.path(); }
  // Makes the file durable and gives it its name, durably, or leaves what was there; what it has
  // replaced does not come back if that is not durable.
  void publish();

 private:
  const std::string target_;
  const bool overwrite_;
  const ScratchFile scratch_;
  std::optional<pcow::File> replaced_;  // locked
};

}  // namespace pcow_img
