// SPDX-License-Identifier: BSD-3-Clause
//
// Image space as the checker reads it: the file of an image, or those of a stripe set. The
// checker's own reading of FORMAT.md, section 12.
#pragma once

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "pcow/format/block.h"
#include "pcow/media/file.h"

namespace pcow {

class ImageReader {
 public:
  // `live`: a writer has the image open.
  ImageReader(File first, bool live) : live_(live) { files_.push_back(std::move(first)); }

  const std::string& path() const { return files_.front().path(); }
  bool live() const { return live_; }
  // What is wrong, and at which image offset or, of a member, offset in its file.
  using Report = std::function<void(const std::string& what, uint64_t offset)>;
  // Opens the other files that the superblock names. What is wrong with them is reported; false if
  // that leaves nothing to read. Errors: kNotFound, kPermission, kBusy, kInvalid, kIo.
  Result<bool> open_members(const format::Superblock& superblock, const Report& report);

  // Whether the files of a stripe set hold so many bytes of image space; those that are too short
  // are reported. True for a single file.
  Result<bool> holds(uint64_t size, const Report& report) const;
  // Bytes of image space that all files hold.
  Result<uint64_t> size() const;
  // False behind the end of a file.
  Result<bool> read(uint64_t offset, std::span<std::byte> out) const;
  // Visits the runs of [first, end) that take space. On tmpfs it does not see what was reserved and
  // never written.
  using Visitor = std::function<Result<void>(uint64_t first, uint64_t end)>;
  Result<void> for_each_data(uint64_t first, uint64_t end, const Visitor& visit) const;
  // Whether a page takes space, as for_each_data() sees it.
  Result<bool> is_data(uint64_t page) const;
  // What the files occupy (st_blocks).
  Result<uint64_t> disk_bytes() const;
  // Of the space that the files take, what for_each_data() does not see.
  Result<uint64_t> hidden_bytes() const;

 private:
  // A piece of image space in one file.
  struct Piece {
    const File* file;
    uint64_t offset;
    uint64_t length;
  };
  Piece piece_at(uint64_t offset) const;
  static Result<bool> for_each_extent(const Piece& piece, uint64_t at, uint64_t length,
                                      const Visitor& visit);
  Result<void> open_member(const format::StripeRecord& record);
  Result<bool> check_member(uint32_t index, const format::Superblock& first,
                            const format::StripeRecord& record, const Report& report) const;

  bool live_;
  std::vector<File> files_;
  uint64_t unit_windows_ = 0;  // of a stripe set
};

}  // namespace pcow
