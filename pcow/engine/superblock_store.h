// SPDX-License-Identifier: BSD-3-Clause
//
// Reading, choosing and updating the two superblock copies (FORMAT.md, section 3).
//
// Invariant: at every instant one copy is valid and durable. An update writes the copy that may be
// damaged first and makes it durable before it touches the other one; the other one is made durable
// by the next flush of the medium, at the latest by the next update before it writes anything.
#pragma once

#include <pcow/status.h>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "pcow/format/layout.h"
#include "pcow/media/media.h"

namespace pcow {

class SuperblockStore {
 public:
  // Reads both copies of a file of an image and chooses. Errors: kForeign, kUnsupported (also: not
  // the first file, and wanted as such), kCorrupt, kIo.
  static Result<SuperblockStore> load(const ImageFile& files, uint32_t index = 0);
  // The same of a file that may be any, first or not.
  static Result<SuperblockStore> load_any(const ImageFile& file);
  // The same of a file that need not be an image: nothing if it is no sound one. Errors: of the
  // calls that look.
  static Result<std::optional<SuperblockStore>> load_if_image(const ImageFile& file);
  // A new image: both copies are to be written by update().
  explicit SuperblockStore(const format::Superblock& superblock, uint32_t index = 0)
      : current_(superblock), index_(index) {}

  const format::Superblock& current() const { return current_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

  // Writes `next` with the following sequence number to both copies; one is durable on return. On
  // failure current() stays as it was.
  Result<void> update(Media& media, format::Superblock next);

 private:
  SuperblockStore() = default;
  static Result<SuperblockStore> choose(const ImageFile& files, uint32_t index);

  format::Superblock current_{};
  uint32_t index_ = 0;  // of the file that it is in
  std::array<uint32_t, 2> write_order_ = {0, 1};
  // Also that of whoever closed the file before: it may have ended before it was flushed.
  bool second_unflushed_ = true;
  std::vector<std::string> warnings_;
};

// Whether so many files and windows a unit are possible (FORMAT.md, section 12).
bool is_stripe_geometry(uint64_t count, uint64_t unit_windows);

}  // namespace pcow
