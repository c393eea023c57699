// SPDX-License-Identifier: BSD-3-Clause
//
// Shared mappings of the files of an image, a GiB each, made when they are needed and kept: what
// lies in memory anyway is read and stored to without a system call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "pcow/media/image_file.h"

namespace pcow {

class SharedMaps {
 public:
  // Address of a range of image space; valid until the next call. Null where the range is in
  // several files or mappings, or cannot be mapped, for want of memory, say: system calls have to
  // do then, which need none, and say what is wrong, if anything is. Throws nothing.
  const std::byte* to_read(const ImageFile& file, uint64_t offset, uint64_t length) {
    return address(file, offset, length, false);
  }
  std::byte* to_store(const ImageFile& file, uint64_t offset, uint64_t length) {
    return address(file, offset, length, true);
  }

  // Whether all of a range is in memory: false also where that cannot be told.
  bool is_resident(const ImageFile& file, uint64_t offset, uint64_t length);

 private:
  struct Key {
    uint32_t file;
    uint64_t gib;  // of that file
    bool writable;

    auto operator<=>(const Key&) const = default;  // NOLINT: clang-tidy sees a 0 here
  };
  class Map {
   public:
    Map() = default;
    ~Map();
    Map(const Map&) = delete;
    Map& operator=(const Map&) = delete;

    // As much of that GiB as the file has by now; false if that is impossible.
    bool map(const File& file, const Key& key);
    std::byte* base() const { return base_; }
    uint64_t length() const { return length_; }

   private:
    std::byte* base_ = nullptr;
    uint64_t length_ = 0;
  };

  std::byte* address(const ImageFile& file, uint64_t offset, uint64_t length, bool writable);
  Map* map_of(const Key& key);  // null: no memory

  std::map<Key, Map> maps_;
};

}  // namespace pcow
