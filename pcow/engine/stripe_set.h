// SPDX-License-Identifier: BSD-3-Clause
//
// The files of a stripe set (FORMAT.md, section 12): finding them, making sure that they are the
// ones, and marking them, so that one that was left behind is noticed.
//
// Invariants
//  1. At every instant, the session in each member is the one in the first file, or the one that
//     the first file announces as the next. Both are durable before a member gets the next.
//  2. Nothing else of a set changes while a next session is announced.
//  3. Every writable open that changes something, and every clean close of one, is a new session:
//     a member copied before is not taken for one of after.
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <optional>
#include <string>
#include <vector>

#include "pcow/engine/base_image.h"
#include "pcow/engine/superblock_store.h"
#include "pcow/format/block.h"
#include "pcow/media/media.h"

namespace pcow {

class StripeSet {
 public:
  // Of an image in one file.
  StripeSet() = default;

  // Opens what the superblock of `file`, which is locked, names; all together are `file` then.
  // Not locked (`locked`): what is read may be changing. `paths`: where the other files are, if not
  // beside the first, under their names. Errors, each naming the file: kNotFound,
  // kPermission, kBusy, kInvalid (no regular file), kForeign, kUnsupported, kCorrupt, kIo.
  static Result<StripeSet> open(ImageFile& file, const format::Superblock& superblock,
                                const OpenOptions& options, bool locked, OpenFiles& files,
                                const std::vector<std::string>* paths = nullptr);

  // Announces a new session and gives it to the members. It is that of the set with the next update
  // of the first file's superblock, to a content that take_session() has seen. When it fails, it
  // may be called again.
  Result<void> begin_session(Media& media, SuperblockStore& superblocks);
  // Makes the announced session, if all members have it, that of the set.
  void take_session(format::Superblock& next) const;

  const std::vector<std::string>& names() const { return names_; }  // of the members
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  std::vector<std::string> names_;
  std::vector<SuperblockStore> members_;  // without the first file
  bool members_ready_ = false;            // they have the session that is announced
  std::vector<std::string> warnings_;
};

// The superblock of another file of the set than the first.
format::Superblock member_superblock(const format::Superblock& first, uint32_t index,
                                     const format::Uuid& uuid);
// The block that names them. REQUIRES: names that are possible.
format::Block stripe_table(const std::vector<std::string>& names,
                           const std::vector<format::Uuid>& uuids, const format::Uuid& image);
// Whether a member may be called so: a plain name.
bool is_member_name(const std::string& name);

}  // namespace pcow
