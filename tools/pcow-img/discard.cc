// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/signal_hold.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

struct ByteRange {
  uint64_t offset = 0;
  uint64_t size = 0;
};

uint64_t parse_pages(const std::string& what, const std::string& text) {
  const uint64_t bytes = parse_size_argument(what, text);
  if (bytes % pcow::kPageSize == 0) return bytes;
  throw tools::UsageError(what + " must be a multiple of " + std::to_string(pcow::kPageSize) +
                          ", not " + std::to_string(bytes));
}

void check_inside(const ByteRange& range, uint64_t virtual_size, const std::string& file) {
  if (range.offset <= virtual_size && range.size <= virtual_size - range.offset) return;
  throw tools::Failure("cannot discard " + std::to_string(range.size) + " bytes at " +
                       std::to_string(range.offset) + ": '" + file + "' has " +
                       std::to_string(virtual_size) + " bytes");
}

void discard(const std::string& file, const ByteRange& range, bool quiet) {
  const tools::SignalHold hold;
  const auto image = open_for_changing(file, quiet, pcow::BaseAccess::kIgnore);
  auto discarded =
      image->discard(pcow::PageIndex(range.offset / pcow::kPageSize), range.size / pcow::kPageSize);
  auto closed = image->close();
  tools::value_or_fail(std::move(discarded));
  tools::value_or_fail(std::move(closed));
}

}  // namespace

int run_discard(const std::vector<std::string>& args) {
  bool quiet = false;
  std::string offset_text;
  std::string size_text;
  std::string file;
  tools::Arguments arguments("pcow-img discard",
                             "Makes a range of guest memory zero, in an image that is not in use, "
                             "and gives its space back. Snapshots and the base keep what they "
                             "have.");
  arguments.flag("-q,--quiet", &quiet, "Print errors only");
  arguments.value("--offset", &offset_text, "First byte of guest memory, a multiple of 4K");
  arguments.value("--size", &size_text, "Bytes of guest memory, a multiple of 4K");
  arguments.positional("FILE", &file, "Image to change", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;
  if (offset_text.empty() || size_text.empty()) {
    throw tools::UsageError("expecting --offset and --size");
  }
  const ByteRange range{parse_pages("--offset", offset_text), parse_pages("--size", size_text)};
  // Read-only first: a request that is refused leaves the file as it is, to the byte.
  check_inside(range, current_size(file), file);
  discard(file, range, quiet);
  if (!quiet) std::printf("Range discarded.\n");
  return tools::kExitOk;
}

}  // namespace pcow_img
