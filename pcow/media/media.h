// SPDX-License-Identifier: BSD-3-Clause
//
// Image space as the engine stores to it: write, then flush. The one place that knows how stores
// become durable, so that crash tests can put a recorder in its stead. It may be in several files
// (image_file.h): then flush() covers all of them.
//
// Persistence rule: after write() returns, any 8-byte-aligned part of it may or may not be durable,
// in any order, until the next flush() has returned; then all of it is, and so are the changes of
// the file itself (its length, its holes). A store may become durable
// before flush() is called (pmem2_persist_fn(3) says the same of its media).
//
// What is written is visible at once to every mapping of the file.
#pragma once

#include <sys/uio.h>

#include <pcow/image.h>
#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "pcow/media/changing_copy.h"
#include "pcow/media/image_file.h"

namespace pcow {

// What a store is for.
using StoreCause = uint64_t StoredBytes::*;

class Media {
 public:
  // Chooses the implementation by the medium's granularity (libpmem2), of several files by the
  // largest. Takes the file over.
  static Result<std::unique_ptr<Media>> open(ImageFile file, Access access);

  virtual ~Media() = default;
  Media(const Media&) = delete;
  Media& operator=(const Media&) = delete;

  const ImageFile& file() const { return file_; }
  Granularity granularity() const { return granularity_; }

  // Reads out.size() bytes; a range past the end of the file is kCorrupt (a truncated image).
  Result<void> read(uint64_t offset, std::span<std::byte> out) const;

  // The same of a place that has space: where it is mapped, or read to `buffer`, which is as long
  // as what is asked for. Valid until the next look().
  Result<std::span<const std::byte>> look(uint64_t offset, std::span<std::byte> buffer);

  // So many runs of lines cost less to store one by one than their whole page.
  virtual uint64_t line_runs_max() const {
    return granularity_ == Granularity::kPage ? 0 : kLinesPerPage;
  }

  // As ImageFile::reserve(), but without a system call where there is space, as far as that can be
  // told.
  Result<void> reserve(uint64_t offset, uint64_t length);

  // REQUIRES: opened kReadWrite, range inside the file; space reserved (a store to a hole of a full
  // DAX file system would be a SIGBUS).
  // These throw nothing: memory that runs out is an error of the medium (kNoMemory).
  Result<void> write(StoreCause cause, uint64_t offset, std::span<const std::byte> data);
  // Gathers `parts` to one contiguous range.
  Result<void> write(StoreCause cause, uint64_t offset, std::span<const iovec> parts);
  // The same for a place that is stored to over and over, a log: on byte-addressable media always
  // by non-temporal stores, whatever its size, so that no system call is needed to flush it.
  Result<void> stream(StoreCause cause, uint64_t offset, std::span<const std::byte> data);
  // The same of what may be changing, in one pass where streams_at_once(); `crc` as crc32c()'s.
  Result<Copied> stream_changing(StoreCause cause, uint64_t offset, std::span<const std::byte> data,
                                 uint32_t crc);
  // Whether small stores of a stream cost no more than large ones: they take no system call.
  virtual bool streams_at_once() const { return granularity_ != Granularity::kPage; }
  Result<void> flush();

  const StoredBytes& stored() const { return stored_; }
  // Whatever is stored while one exists is for copies. They do not nest.
  class CopyScope {
   public:
    explicit CopyScope(Media& media) : media_(media) { media_.copying_ = true; }
    ~CopyScope() { media_.copying_ = false; }
    CopyScope(const CopyScope&) = delete;
    CopyScope& operator=(const CopyScope&) = delete;

   private:
    Media& media_;
  };

 protected:
  Media(ImageFile file, Granularity granularity)
      : file_(std::move(file)), granularity_(granularity) {}

  // By stream_impl().
  virtual Result<Copied> stream_changing_impl(uint64_t offset, std::span<const std::byte> data,
                                              uint32_t crc);

 private:
  Result<void> count(StoreCause cause, uint64_t bytes, Result<void> result);
  virtual Result<void> write_impl(uint64_t offset, std::span<const iovec> parts) = 0;
  virtual Result<void> stream_impl(uint64_t offset, std::span<const std::byte> data) = 0;
  virtual Result<void> flush_impl() = 0;
  // Null: it has to be read.
  virtual const std::byte* mapped(uint64_t offset, uint64_t length);
  virtual bool has_space(uint64_t offset, uint64_t length);

  ImageFile file_;
  Granularity granularity_;
  StoredBytes stored_;
  bool copying_ = false;
};

}  // namespace pcow
