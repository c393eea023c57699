// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <vector>

#include "pcow/base/zero.h"
#include "pcow/format/layout.h"
#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/content.h"

namespace pcow_img {
namespace {

namespace format = pcow::format;

// What a pcow image stores of some guest memory.
struct Stored {
  uint64_t pages = 0;
  uint64_t gibs = 0;  // in which there are any
};

struct Measurement {
  uint64_t required = 0;         // closed, holding what is stored now
  uint64_t fully_allocated = 0;  // in use, every page stored
};

constexpr uint64_t blocks_for(uint64_t count, uint64_t per_block) {
  return (count + per_block - 1) / per_block;
}

// pcow/FORMAT.md says which blocks there are; each is counted where the engine writes it.
uint64_t file_space(uint64_t size, const Stored& stored, uint64_t files) {
  const uint64_t gibs = blocks_for(size, pcow::kGiB);
  const uint64_t segment_slots = format::kSlotsPerSegment - 1;  // one is for the slot map
  const uint64_t metadata_segments = stored.gibs / segment_slots;
  uint64_t blocks = format::kSuperblockOffset.size();
  // The superblocks of the other files of a stripe set, and the table that names them.
  if (files > 1) blocks += (files - 1) * format::kSuperblockOffset.size() + 1;
  blocks += 2;  // the root and the slot map of segment 0
  blocks += blocks_for(1 + metadata_segments + stored.gibs, format::kSegmentsPerBlock);
  blocks += 1;  // the layer directory
  blocks += blocks_for(gibs, format::kGibsPerBlock);
  blocks += metadata_segments;
  return blocks * format::kBlockSize + stored.gibs * format::kChunkTableUsed +
         stored.pages * pcow::kPageSize;
}

Measurement measure(uint64_t size, const Stored& stored, uint64_t files) {
  const Stored all = {size / pcow::kPageSize, blocks_for(size, pcow::kGiB)};
  return {file_space(size, stored, files),
          file_space(size, all, files) + pcow::default_log_size(size)};
}

uint64_t parse_files(const std::string& text) {
  if (text.empty()) return 1;
  for (uint64_t files = 2; files <= format::kMaxStripeFiles; files *= 2) {
    if (text == std::to_string(files)) return files;
  }
  throw tools::UsageError("--stripe-files must be 2, 4, 8 or 16, not '" + text + "'");
}

// The pages that are not zero: those that `convert` would store.
Stored scan(const Content& content) {
  Stored stored;
  uint64_t last_gib = std::numeric_limits<uint64_t>::max();
  std::vector<std::byte> buffer(kCopyStep);
  for (uint64_t at = 0; at < content.padded_size();) {
    const Extent run = content.extent(at);
    const uint64_t length = run.data ? std::min(run.length, kCopyStep) : run.length;
    const auto part = std::span(buffer).first(run.data ? length : 0);
    content.read(at, part);
    for (uint64_t page = 0; page < part.size(); page += pcow::kPageSize) {
      if (pcow::is_zero(part.subspan(page, pcow::kPageSize))) continue;
      ++stored.pages;
      const uint64_t gib = (at + page) / pcow::kGiB;
      if (gib != last_gib) ++stored.gibs;
      last_gib = gib;
    }
    at += length;
  }
  return stored;
}

void print(const Measurement& result, tools::Output output) {
  if (output == tools::Output::kJson) {
    auto json = nlohmann::ordered_json::object();
    json["required"] = result.required;
    json["fully-allocated"] = result.fully_allocated;
    std::printf("%s\n", tools::json_text(json).c_str());
    return;
  }
  std::printf("required size: %llu\nfully allocated size: %llu\n",
              static_cast<unsigned long long>(result.required),
              static_cast<unsigned long long>(result.fully_allocated));
}

}  // namespace

int run_measure(const std::vector<std::string>& args) {
  tools::Output output = tools::Output::kHuman;
  Consent consent;
  std::string format;
  std::string size_text;
  std::string files_text;
  std::string file;
  tools::Arguments arguments("pcow-img measure",
                             "Tells how much file space a pcow image needs: for what FILE holds, "
                             "or for SIZE bytes of guest memory that nothing was written to.");
  arguments.output(&output);
  arguments.value("--size", &size_text, "Virtual size, instead of a file");
  arguments.value("-f,--source-format", &format,
                  "Format of FILE: pcow, raw or nbjl; default: what it looks like");
  arguments.value("--stripe-files", &files_text, "For a stripe set of so many files, all together");
  add_consent_options(arguments, &consent, "Read an image that is in use");
  arguments.positional("FILE", &file, "Image to be converted");
  if (!arguments.parse(args)) return tools::kExitOk;
  if (file.empty() == size_text.empty()) {
    throw tools::UsageError("expecting either an image file name or --size");
  }
  if (file.empty() && (!format.empty() || consent.allow_base || consent.force_share)) {
    throw tools::UsageError("-f, --allow-base and -U go with an image file name, not with --size");
  }

  const uint64_t files = parse_files(files_text);
  Stored stored;
  uint64_t size = 0;
  if (file.empty()) {
    size = parse_size_argument("--size", size_text);
  } else {
    const auto content = open_content(file, format, consent);
    size = content->size();
    stored = scan(*content);
  }
  size = pcow::round_up(size, pcow::kChunkSize);
  check_virtual_size("cannot measure", size);
  print(measure(size, stored, files), output);
  return tools::kExitOk;
}

}  // namespace pcow_img
