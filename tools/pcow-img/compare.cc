// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <optional>
#include <vector>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/progress.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/content.h"

namespace pcow_img {
namespace {

struct CompareCommand {
  bool quiet = false;
  bool progress = false;
  bool strict = false;
  Consent consent;
  std::string first_format;
  std::string second_format;
  std::string first;
  std::string second;
};

// What one of the two contents has at some place: beyond its end, zeros that nothing holds.
class Side {
 public:
  explicit Side(const Content& content) : content_(&content), buffer_(kCopyStep) {}

  Extent extent(uint64_t at, uint64_t end) const {
    if (at >= content_->padded_size()) return {at, end - at, false};
    return content_->extent(at);
  }

  std::span<const std::byte> read(uint64_t at, uint64_t length, bool data) {
    const auto part = std::span(buffer_).first(length);
    const uint64_t there = content_->padded_size() - std::min(at, content_->padded_size());
    const auto inside = part.first(data ? std::min(length, there) : 0);
    if (!inside.empty()) content_->read(at, inside);
    std::memset(part.data() + inside.size(), 0, length - inside.size());
    return part;
  }

 private:
  const Content* content_;
  std::vector<std::byte> buffer_;
};

void report(const CompareCommand& command, const std::string& text) {
  if (!command.quiet) std::printf("%s\n", text.c_str());
}

// The first difference, in words; nothing when there is none.
std::optional<std::string> first_difference(const CompareCommand& command, const Content& first,
                                            const Content& second, tools::Progress& progress) {
  Side a(first);
  Side b(second);
  const uint64_t end = std::max(first.padded_size(), second.padded_size());
  for (uint64_t at = 0; at < end;) {
    progress.update(at, end);
    const Extent run_a = a.extent(at, end);
    const Extent run_b = b.extent(at, end);
    if (command.strict && run_a.data != run_b.data) {
      return "Strict mode: Offset " + std::to_string(at) + " allocation mismatch!";
    }
    uint64_t length = std::min(run_a.length, run_b.length);
    if (run_a.data || run_b.data) {
      length = std::min(length, kCopyStep);
      const auto bytes_a = a.read(at, length, run_a.data);
      const auto bytes_b = b.read(at, length, run_b.data);
      const auto differ = std::mismatch(bytes_a.begin(), bytes_a.end(), bytes_b.begin());
      if (differ.first != bytes_a.end()) {
        const auto offset = static_cast<uint64_t>(differ.first - bytes_a.begin());
        return "Content mismatch at offset " + std::to_string(at + offset) + "!";
      }
    }
    at += length;
  }
  progress.update(end, end);
  return std::nullopt;
}

int compare(const CompareCommand& command) {
  const auto first = open_content(command.first, command.first_format, command.consent);
  const auto second = open_content(command.second, command.second_format, command.consent);
  if (first->size() != second->size()) {
    if (command.strict) {
      report(command, "Strict mode: Image size mismatch!");
      return kCompareDifferent;
    }
    report(command, "Warning: Image size mismatch!");
  }
  std::optional<std::string> difference;
  {
    tools::Progress progress(command.progress && !command.quiet);
    difference = first_difference(command, *first, *second, progress);
  }
  report(command, difference.value_or("Images are identical."));
  if (std::fflush(stdout) != 0) return kCompareError;  // which the caller explains
  return difference ? kCompareDifferent : kCompareSame;
}

bool parse(const std::vector<std::string>& args, CompareCommand& command) {
  tools::Arguments arguments(
      "pcow-img compare",
      "Compares the guest memory of two images. Exit codes: 0 identical, 1 different, 2 error.");
  arguments.flag("-q,--quiet", &command.quiet, "Print errors only");
  arguments.flag("-p,--progress", &command.progress, "Show progress");
  arguments.flag("-s,--strict", &command.strict,
                 "Sizes, and which pages are stored, must be equal too");
  add_consent_options(arguments, &command.consent, "Compare images that are in use");
  arguments.value("-f,--first-format", &command.first_format,
                  "Format of FILE1: pcow, raw or nbjl; default: what it looks like");
  arguments.value("-F,--second-format", &command.second_format, "Format of FILE2");
  arguments.positional("FILE1", &command.first, "Image to compare",
                       "expecting two image file names");
  arguments.positional("FILE2", &command.second, "Image to compare it with",
                       "expecting two image file names");
  return arguments.parse(args);
}

}  // namespace

int run_compare(const std::vector<std::string>& args) {
  CompareCommand command;
  return parse(args, command) ? compare(command) : tools::kExitOk;
}

}  // namespace pcow_img
