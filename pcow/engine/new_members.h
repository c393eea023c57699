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

  NewMembers(NewMembers&&) = default;
  NewMembers& operator=(NewMembers&&) = delete;
  // Removes what was created, unless it was published.
  ~NewMembers();

  std::vector<std::string> names() const;
  // Creates the files, under other names where they replace one, and locks them.
  Result<std::vector<File>> create();
  // Gives them their names, durably. Without replaced files, on failure nothing is left.
  Result<void> publish();
  // The set is complete.
  void keep() { members_.clear(); }

 private:
  struct Member {
    std::string name;          // as the image has it
    std::string path;          // of the file
    std::string link;          // to it, beside the image; or empty
    std::optional<File> old;   // that is replaced, locked
    std::string created = {};  // what is there now of the file
    bool linked = false;       // the link is new
  };
  NewMembers() = default;
  static Result<void> check_existing(Member& member, const std::optional<format::Uuid>& replaced);

  std::vector<Member> members_;
};

}  // namespace pcow
