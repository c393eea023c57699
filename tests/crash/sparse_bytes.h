// SPDX-License-Identifier: BSD-3-Clause
//
// The bytes of a sparse file, or of the two of a stripe set, in memory, 4 KiB pages shared between
// copies until one writes: a copy costs a pointer a page, so every crash state can be a file of its
// own.
#pragma once

#include <pcow/units.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace crash {

// Where the bytes of the second file begin; those of the first begin at 0.
inline constexpr uint64_t kSecondFile = 32 * pcow::kGiB;

class SparseBytes {
 public:
  // Of each file; pages may lie beyond while its growth is not durable.
  uint64_t size = 0;
  uint64_t second_size = 0;
  // Of the file that an offset is in.
  uint64_t& size_at(uint64_t offset) { return offset < kSecondFile ? size : second_size; }
  uint64_t size_at(uint64_t offset) const { return offset < kSecondFile ? size : second_size; }

  // Bytes of absent pages read as zeros, whatever the size.
  void read(uint64_t offset, std::span<std::byte> out) const;
  void write(uint64_t offset, std::span<const std::byte> bytes);

  // A present page takes up space in the file, also when it is all zero.
  bool present(uint64_t page) const { return find(page) != nullptr; }
  void reserve(uint64_t offset, uint64_t length);
  // Drops the whole pages in the range, and zeroes the parts of others.
  void punch(uint64_t offset, uint64_t length);
  // Drops the pages in the range that are all zero.
  void drop_zero_pages(uint64_t offset, uint64_t length);
  void drop_beyond_size();

  // First present (absent) page at or after `page`; `end` if there is none below it.
  uint64_t next_present(uint64_t page, uint64_t end) const;
  uint64_t next_absent(uint64_t page, uint64_t end) const;
  uint64_t page_count() const { return pages_.size(); }

  // Of the sizes, the present pages and their content.
  uint64_t digest() const;

 private:
  struct Page {
    std::array<std::byte, pcow::kPageSize> bytes{};
    mutable uint64_t hash = 0;  // 0: not computed since the last change
  };
  struct Entry {
    uint64_t index;
    std::shared_ptr<Page> page;
  };
  using Entries = std::vector<Entry>;

  Entries::const_iterator lower_bound(uint64_t page) const;
  const Page* find(uint64_t page) const;
  Page& modify(uint64_t page);

  Entries pages_;  // ascending
};

// A well-mixed value of two others.
uint64_t mix(uint64_t a, uint64_t b);

}  // namespace crash
