// SPDX-License-Identifier: BSD-3-Clause
//
// A last-level cache: set-associative, least recently used, write-back, write-allocate.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace tiersim {

class Cache {
 public:
  // REQUIRES: bytes > 0. Rounded up to whole sets.
  explicit Cache(uint64_t bytes);

  // Accesses a line, by its number in the guest's memory. True if that writes another line back,
  // whose number is then in `written_back`.
  bool access(uint64_t line, bool write, uint64_t& written_back);

 private:
  static constexpr uint64_t kWays = 16;

  // Line and dirty bit, or nothing.
  struct Slot {
    uint64_t line = UINT64_MAX;
    bool dirty = false;
  };

  std::vector<std::array<Slot, kWays>> sets_;  // each in the order of use, the last one first
};

}  // namespace tiersim
