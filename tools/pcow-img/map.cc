// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstdio>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "pcow/base/printable.h"
#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

// Extents are printed as they come: the map of a big image is not held in memory.
class MapPrinter {
 public:
  // `files`: of the image and its bases; `striped`: some of them has several.
  MapPrinter(tools::Output output, std::vector<std::string> files, bool striped)
      : output_(output), files_(std::move(files)), striped_(striped) {}

  void begin() const {
    if (output_ == tools::Output::kHuman) {
      std::printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    } else {
      std::printf("[");
    }
  }

  void extent(const pcow::MapExtent& extent) {
    if (output_ == tools::Output::kHuman) {
      human(extent);
    } else {
      json(extent);
    }
  }

  void end() const {
    if (output_ == tools::Output::kJson) std::printf("]\n");
  }

 private:
  // As in qemu-img, the human table lists data only.
  void human(const pcow::MapExtent& extent) const {
    if (!extent.data) return;
    std::printf("%#-16llx%#-16llx%#-16llx%s\n", static_cast<unsigned long long>(extent.start),
                static_cast<unsigned long long>(extent.length),
                static_cast<unsigned long long>(extent.file_offset.value_or(0)),
                files_.at(extent.file).c_str());
  }

  void json(const pcow::MapExtent& extent) {
    auto entry = nlohmann::ordered_json::object();
    entry["start"] = extent.start;
    entry["length"] = extent.length;
    entry["depth"] = extent.depth;
    entry["present"] = extent.data;
    entry["zero"] = !extent.data;
    entry["data"] = extent.data;
    entry["compressed"] = false;
    if (extent.data && extent.file_offset) entry["offset"] = *extent.file_offset;
    if (extent.data && striped_) entry["filename"] = files_.at(extent.file);
    std::printf("%s%s", first_ ? "" : ",\n", tools::json_text(entry, -1).c_str());
    first_ = false;
  }

  const tools::Output output_;
  const std::vector<std::string> files_;
  const bool striped_;
  bool first_ = true;
};

std::vector<std::string> names_of(const pcow::ImageInfo& info) {
  std::vector<std::string> names;
  for (const std::string& file : info.files) names.push_back(pcow::printable(file));
  return names;
}

}  // namespace

int run_map(const std::vector<std::string>& args) {
  tools::Output output = tools::Output::kHuman;
  Consent consent;
  std::string file;
  std::string start_text = "0";
  std::string length_text;
  std::string snapshot;
  tools::Arguments arguments("pcow-img map",
                             "Lists which ranges of guest memory the image holds, and where in the "
                             "file; the rest reads as zeros. Never writes to the image.");
  arguments.output(&output);
  arguments.value("-s,--start-offset", &start_text, "First byte of guest memory (default 0)");
  arguments.value("-l,--max-length", &length_text, "Bytes of guest memory (default: to the end)");
  arguments.value("--snapshot", &snapshot, "Map what this snapshot keeps");
  add_consent_options(arguments, &consent, "Read an image that is in use");
  arguments.positional("FILE", &file, "Image to map", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;

  const uint64_t start = parse_size_argument("--start-offset", start_text);
  const uint64_t wanted = length_text.empty() ? std::numeric_limits<uint64_t>::max()
                                              : parse_size_argument("--max-length", length_text);
  const auto image = open_for_reading(file, consent, snapshot);
  const uint64_t size = image->virtual_size();
  if (start > size) {
    throw tools::Failure("start offset " + start_text + " lies beyond the virtual size of '" +
                         file + "' (" + std::to_string(size) + " bytes)");
  }
  const pcow::ImageInfo info = image->info();
  MapPrinter printer(output, names_of(info), info.files.size() > 1 + info.chain.size());
  printer.begin();
  auto mapped = image->map(start, std::min(wanted, size - start),
                           [&printer](const pcow::MapExtent& extent) { printer.extent(extent); });
  if (mapped) printer.end();
  tools::value_or_fail(std::move(mapped));
  return tools::kExitOk;
}

}  // namespace pcow_img
