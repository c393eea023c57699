// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <limits>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/signal_hold.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

struct NewSize {
  char sign = 0;  // '+', '-', or 0 for an absolute size
  uint64_t bytes = 0;
};

NewSize parse_new_size(const std::string& text) {
  NewSize size;
  if (!text.empty() && (text.front() == '+' || text.front() == '-')) size.sign = text.front();
  size.bytes = parse_size_argument("image size", text.substr(size.sign == 0 ? 0 : 1));
  return size;
}

std::string sized(const std::string& file, uint64_t bytes) {
  return "'" + file + "' (" + std::to_string(bytes) + " bytes)";
}

uint64_t apply(const NewSize& size, uint64_t current, const std::string& file) {
  if (size.sign == '+') {
    if (size.bytes > std::numeric_limits<uint64_t>::max() - current) {
      throw tools::Failure(sized(file, current) + " cannot grow by that much");
    }
    return current + size.bytes;
  }
  if (size.sign == '-') {
    if (size.bytes >= current) {
      throw tools::Failure(sized(file, current) + " cannot shrink by that much: nothing is left");
    }
    return current - size.bytes;
  }
  return size.bytes;
}

// The size that is asked for, once everything that can be refused has been.
uint64_t target_size(const NewSize& size, uint64_t current, const std::string& file, bool shrink) {
  const uint64_t target = apply(size, current, file);
  check_virtual_size("cannot resize '" + file + "'", target);
  if (target < current && !shrink) {
    throw tools::Failure(sized(file, current) + " would shrink to " + std::to_string(target) +
                         " bytes, which deletes what lies beyond\nUse --shrink if that is meant");
  }
  return target;
}

void resize(const std::string& file, uint64_t current, uint64_t target, bool quiet) {
  const tools::SignalHold hold;
  const auto image = open_for_changing(file, quiet, pcow::BaseAccess::kIgnore);
  // The image was unlocked for a moment since its size was read.
  const bool changed = image->virtual_size() != current;
  auto resized = changed ? pcow::Result<void>() : image->resize(target, target < current);
  auto closed = image->close();
  if (changed) throw tools::Failure("the size of '" + file + "' changed meanwhile; try again");
  tools::value_or_fail(std::move(resized));
  tools::value_or_fail(std::move(closed));
}

}  // namespace

int run_resize(const std::vector<std::string>& args) {
  // The size comes last and may start with '-', so it is taken off before options are parsed.
  std::vector<std::string> words = args;
  std::string size_text;
  const bool wants_help = !words.empty() && (words.back() == "-h" || words.back() == "--help");
  if (!words.empty() && !wants_help) {
    size_text = words.back();
    words.pop_back();
  }
  if (size_text.starts_with("--")) throw tools::UsageError("expecting the size as last argument");
  bool quiet = false;
  bool shrink = false;
  std::string file;
  std::string second_word;
  tools::Arguments arguments("pcow-img resize",
                             "Changes the virtual size of an image that is not in use. The size is "
                             "the last argument: absolute, or relative with + or -.");
  arguments.flag("-q,--quiet", &quiet, "Print errors only");
  arguments.flag("--shrink", &shrink, "Allow a smaller size: drops what lies beyond it");
  arguments.positional("FILE", &file, "Image to resize", "expecting image file name and size");
  arguments.positional("SIZE", &second_word, "New virtual size, a multiple of 2M");
  if (!arguments.parse(words)) return tools::kExitOk;
  if (!second_word.empty()) throw tools::UsageError("unexpected argument '" + second_word + "'");

  const NewSize new_size = parse_new_size(size_text);
  // Read-only first: a request that is refused leaves the file as it is, to the byte.
  const uint64_t current = current_size(file);
  const uint64_t target = target_size(new_size, current, file, shrink);
  if (target != current) resize(file, current, target, quiet);
  if (!quiet) std::printf("Image resized.\n");
  return tools::kExitOk;
}

}  // namespace pcow_img
