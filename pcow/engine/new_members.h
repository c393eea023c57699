// SPDX-License-Identifier: BSD-3-Clause
//
// The files of a stripe set that is being created, apart from the first: their names, and that they
// exist only once the set is complete.
#pragma once

#include <pcow/status.h>
#include <optional>
#include <string>
#include <vector>

#include "pcow/format/layout.h"
#include "pcow/media/file.h"

namespace pcow {

class NewMembers {
 public:
  // For an image at `image_path`; `paths` as in CreateOptions::stripe. Nothing is created. A file
  // that exists is accepted only if it is of the set `replaced`. Errors: kInvalid, kExists, kBusy.
  static Result<NewMembers> plan(const std::string& image_path,
                                 const std::vector<std::string>& paths,
                                 const std::optional<format::Uuid>& replaced);

  NewMembers() = default;  // of an image in one file
  NewMembers(NewMembers&&) = default;
  NewMembers& operator=(NewMembers&&) = delete;
  // Unless keep() was called: removes what was created, and puts back what was replaced.
  ~NewMembers();

  std::vector<std::string> names() const;
  // Creates the files, `staged` under names of their own, and locks them. REQUIRES: staged, if they
  // replace one.
  Result<std::vector<File>> create(bool staged);
  // Where they are now.
  std::vector<std::string> paths() const;
  // Gives them their names, durably.
  Result<void> publish();
  // The set is complete: what was replaced is removed.
  void keep();

 private:
  struct Member {
    std::string name;          // as the image has it
    std::string path;          // of the file
    std::string link;          // to it, beside the image; or empty
    std::optional<File> old;   // that is replaced, locked
    std::string created = {};  // what is there now of the file
    std::string moved = {};    // the name that the replaced file has instead
    bool linked = false;       // the link is new
  };
  static Result<void> publish_file(Member& member);
  static Result<void> publish_link(Member& member);
  static Result<void> check_existing(Member& member, const std::optional<format::Uuid>& replaced);

  std::vector<Member> members_;
};

}  // namespace pcow
