// SPDX-License-Identifier: BSD-3-Clause
//
// The file of an image, or the files of a stripe set, as one linear address space: image space
// (FORMAT.md, sections 2 and 12). The one place that knows which file holds an offset.
#pragma once

#include <sys/uio.h>

#include <pcow/status.h>
#include <pcow/units.h>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pcow/format/layout.h"
#include "pcow/media/file.h"

namespace pcow {

class ImageFile {
 public:
  explicit ImageFile(File file);
  // Makes it a stripe set, of which it was the first file. REQUIRES: the number of files and the
  // unit are powers of two, and a segment is a whole number of rounds of all files.
  void add_members(std::vector<File> members, uint64_t unit_windows);

  // The first file again. REQUIRES: there is no other.
  File take_first() && { return std::move(files_.front()); }

  uint32_t count() const { return static_cast<uint32_t>(files_.size()); }
  const File& member(uint32_t index) const { return files_[index]; }
  // The name of the image: that of its first file.
  const std::string& path() const { return files_.front().path(); }

  struct Place {
    uint32_t file;
    uint64_t offset;  // in that file
    uint64_t length;  // bytes from there on that are neighbours in image space, too
  };
  Place place(uint64_t offset) const;
  // Where the first window of a file lies: its superblocks. That of the first file is part of image
  // space, the others have offsets behind the end of all that an image can be.
  static uint64_t header_offset(uint32_t index) {
    return index == 0 ? 0 : kHeaders + index * kWindowSize;
  }

  // Bytes of image space that all files together hold.
  Result<uint64_t> size() const;
  // kCorrupt, and names the file, unless all are long enough to hold so much.
  Result<void> check_holds(uint64_t size) const;
  // Whether a file is longer than image space up to `offset` takes.
  Result<bool> reaches_behind(uint64_t offset) const;

  // What its files occupy (st_blocks).
  Result<uint64_t> disk_bytes() const;

  // As of a file (file.h), in image space. A range may be in several files: what fails may be done
  // in some of them. Neither write() nor sync() needs memory.
  Result<void> read(uint64_t offset, std::span<std::byte> out) const;
  Result<void> write(uint64_t offset, std::span<const iovec> parts) const;
  Result<uint64_t> find_data(uint64_t offset, uint64_t end) const;
  Result<void> extend(uint64_t size) const;
  // Whether the files could be extended so far: does it, and takes it back.
  Result<void> try_extend(uint64_t size) const;
  Result<void> reserve(uint64_t offset, uint64_t length) const;
  Result<void> punch(uint64_t offset, uint64_t length) const;
  // Everything is durable when it returns, in whatever order it became so.
  Result<void> sync() const;
  bool sync_needed() const;
  bool sync_failed() const;  // of one of them, which is for good
  void unlock() const;

 private:
  static constexpr size_t kPartsAtOnce = 256;
  static constexpr uint64_t kHeaders = format::kMaxSegments * kSegmentSize;

  // What a file has in front of its part of image space.
  uint64_t header_length(uint32_t index) const { return index == 0 ? 0 : kWindowSize; }
  // How many of the bytes of image space below `offset` a file holds: they lie side by side in it.
  uint64_t bytes_below(uint32_t index, uint64_t offset) const;
  uint64_t length_for(uint32_t index, uint64_t size) const;
  using RangeVisitor = std::function<Result<void>(const File&, uint64_t offset, uint64_t length)>;
  // Visits what each file has of a range.
  Result<void> for_each_file(uint64_t offset, uint64_t length, const RangeVisitor& visit) const;

  std::vector<File> files_;
  uint64_t unit_ = 0;  // bytes; of a stripe set
};

}  // namespace pcow
