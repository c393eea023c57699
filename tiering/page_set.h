// SPDX-License-Identifier: BSD-3-Clause
//
// A set of guest pages: 32 KiB per GiB that has a member, nothing for the others.
#pragma once

#include <pcow/units.h>
#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace tiering {

class PageSet {
 public:
  // Makes room for the pages of a GiB, so that insert() there cannot fail. Throws std::bad_alloc.
  void reserve(pcow::GibIndex gib);
  // The same for every GiB of a run. Throws std::bad_alloc.
  void reserve(pcow::PageIndex first, uint64_t count);
  // REQUIRES: reserve() of every GiB touched, and no trim() since.
  void insert(pcow::PageIndex first, uint64_t count);
  void erase(pcow::PageIndex page) { erase(page, 1); }
  void erase(pcow::PageIndex first, uint64_t count);
  // Gives back the room of a GiB without members.
  void trim(pcow::GibIndex gib);
  void clear();

  bool empty() const { return count_ == 0; }
  uint64_t size() const { return count_; }
  bool contains(pcow::PageIndex page) const;
  // The lowest members, up to so many of them. Throws std::bad_alloc.
  std::vector<pcow::PageIndex> lowest(size_t max) const;

  // Calls fn(PageIndex) for every member, ascending.
  template <typename Fn>
  void for_each(const Fn& fn) const {
    for (const auto& [gib, bits] : gibs_) {
      if (!bits) continue;
      for (size_t word = 0; word < kWords; ++word) {
        for (uint64_t rest = (*bits)[word]; rest != 0; rest &= rest - 1) {
          const auto bit = static_cast<uint64_t>(std::countr_zero(rest));
          fn(pcow::PageIndex(gib * pcow::kPagesPerSegment + word * 64 + bit));
        }
      }
    }
  }

 private:
  static constexpr size_t kWords = pcow::kPagesPerSegment / 64;
  using Bits = std::array<uint64_t, kWords>;

  std::map<uint64_t, std::unique_ptr<Bits>> gibs_;
  std::unique_ptr<Bits> spare_;  // all zero; saves an allocation per idle GiB and commit
  uint64_t count_ = 0;
};

}  // namespace tiering
