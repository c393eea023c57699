// SPDX-License-Identifier: BSD-3-Clause
//
// Valid images that inputs are patches of: an image file is over a GiB long, but only some tens of
// its pages are not holes.
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

struct TemplatePage {
  uint64_t offset = 0;
  Role role = Role::kData;
  pcow::format::Block content;
};

struct LogPlace {
  uint64_t offset = 0;  // in the file, of a record
  uint64_t length = 0;
};

struct TemplateImage {
  std::string name;
  uint64_t file_size = 0;
  std::vector<TemplatePage> pages;  // ascending
  std::vector<LogPlace> records;    // of the log, in order
};

// The images of the recipes (template_recipes.h), made on the first call.
const std::vector<TemplateImage>& template_images();

}  // namespace fuzz
