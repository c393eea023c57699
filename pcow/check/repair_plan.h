// SPDX-License-Identifier: BSD-3-Clause
//
// What the checker can prove how to put right. It is collected while an image is checked and
// carried out, or not, as a whole (repair.cc).
//
// Proven means: it follows from structures whose checksums are right and which agree with each
// other. So a plan is worth something only when all else is sound (`unproven` is empty).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pcow/format/block.h"

namespace pcow {

struct RepairPlan {
  struct Range {
    uint64_t offset;
    uint64_t length;
  };
  // Metadata as it is to be, by image offset. Its checksums are right.
  std::map<uint64_t, format::Block> pages;
  // What nothing owns, to become holes before `pages` say that it is free.
  std::vector<Range> holes;
  bool superblock_copy = false;  // one is damaged
  bool unmark = false;           // the image is marked corrupt
  std::vector<std::string> unproven;

  bool empty() const { return pages.empty() && holes.empty() && !superblock_copy && !unmark; }
  // Ascending calls make few ranges.
  void add_hole(uint64_t offset, uint64_t length) {
    if (!holes.empty() && holes.back().offset + holes.back().length == offset) {
      holes.back().length += length;
    } else {
      holes.push_back({offset, length});
    }
  }
};

}  // namespace pcow
