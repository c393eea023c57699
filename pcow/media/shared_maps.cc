// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/shared_maps.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <new>
#include <span>

namespace pcow {

SharedMaps::Map::~Map() {
  if (base_ != nullptr) munmap(base_, length_);
}

bool SharedMaps::Map::map(const File& file, const Key& key) {
  const Result<uint64_t> size = file.size();
  const uint64_t start = key.gib * kSegmentSize;
  if (!size || *size <= start) return false;
  const uint64_t length = std::min(*size - start, kSegmentSize);
  const int protection = key.writable ? PROT_READ | PROT_WRITE : PROT_READ;
  void* const area =
      mmap(nullptr, length, protection, MAP_SHARED, file.fd(), static_cast<off_t>(start));
  if (area == MAP_FAILED) return false;
  if (base_ != nullptr) munmap(base_, length_);
  base_ = static_cast<std::byte*>(area);
  length_ = length;
  // A child process needs none of it, a core file neither, and nothing is lost if the kernel does
  // not know one of these. The first store to a hole shall not take 2 MiB.
  for (const int advice : {MADV_DONTFORK, MADV_DONTDUMP, MADV_NOHUGEPAGE}) {
    (void)madvise(base_, length_, advice);
  }
  return true;
}

std::byte* SharedMaps::address(const ImageFile& file, uint64_t offset, uint64_t length,
                               bool writable) {
  const ImageFile::Place at = file.place(offset);
  const Key key{at.file, at.offset / kSegmentSize, writable};
  const uint64_t in_map = at.offset % kSegmentSize;
  if (length > at.length || length > kSegmentSize - in_map) return nullptr;
  Map* const map = map_of(key);
  if (map == nullptr) return nullptr;
  // The file may have grown since it was mapped.
  if (in_map + length > map->length() && !map->map(file.member(at.file), key)) return nullptr;
  return in_map + length > map->length() ? nullptr : map->base() + in_map;
}

bool SharedMaps::is_resident(const ImageFile& file, uint64_t offset, uint64_t length) {
  std::array<unsigned char, kPagesPerChunk> pages;
  while (length > 0) {
    const uint64_t step = std::min(length, kWindowSize - offset % kWindowSize);
    std::byte* const there = address(file, offset, step, false);
    if (there == nullptr || mincore(there, step, pages.data()) != 0) return false;
    const auto seen = std::span(pages).first(step / kPageSize);
    if (!std::ranges::all_of(seen, [](unsigned char page) { return (page & 1) != 0; })) {
      return false;
    }
    offset += step;
    length -= step;
  }
  return true;
}

SharedMaps::Map* SharedMaps::map_of(const Key& key) {
  try {
    return &maps_[key];
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace pcow
