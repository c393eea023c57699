// SPDX-License-Identifier: BSD-3-Clause
//
// Valid images that inputs are patches of: an image file is over a GiB long, but only some tens of
// its pages are not holes.
//
// Pages are known by their offset in image space, whichever file of a stripe set holds them. What
// is in front of image space in a member, its superblocks, has offsets behind all that an image can
// be.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "pcow/format/block.h"

namespace fuzz {

// What a page of an image file is; it says which checksum covers it.
enum class Role {
  kSuperblock,
  kBlock,       // metadata with a block header
  kChunkTable,  // a page of the slot of a chunk table
  kLog,
  kData,
};

// How image space lies in files (FORMAT.md, section 12).
struct Striping {
  uint64_t files = 1;
  uint64_t unit = 0;  // bytes; of a stripe set

  struct Place {
    size_t file = 0;
    uint64_t offset = 0;
  };
  Place place(uint64_t offset) const;
  uint64_t offset(const Place& place) const;
};
// Where the pages in front of image space are.
inline constexpr uint64_t kMembers = uint64_t{1} << 60;

struct TemplatePage {
  uint64_t offset = 0;
  Role role = Role::kData;
  pcow::format::Block content;
};

struct LogPlace {
  uint64_t offset = 0;  // of a record
  uint64_t length = 0;
};

struct TemplateImage {
  std::string name;
  Striping striping;
  std::vector<uint64_t> file_sizes;
  std::vector<TemplatePage> pages;  // ascending
  std::vector<LogPlace> records;    // of the log, in order

  uint64_t end() const;  // of image space
};

// The images of the recipes (template_recipes.h), made on the first call.
const std::vector<TemplateImage>& template_images();

}  // namespace fuzz
