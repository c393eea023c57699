// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/failure.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {

std::unique_ptr<pcow::Image> open_for_reading(const std::string& file, bool force_share,
                                              const std::string& snapshot) {
  pcow::OpenOptions options;
  options.force_share = force_share;
  options.replay_in_memory = true;
  if (!snapshot.empty()) options.snapshot = snapshot;
  auto image = pcow::Image::open(file, options);
  if (!image) throw tools::Failure(message_with_option(image.error()));
  return *std::move(image);
}

std::string message_with_option(const pcow::Error& error) {
  if (error.code != pcow::Code::kBusy) return error.message;
  return error.message + "\nUse -U to read it all the same; what is read may be changing";
}

uint64_t parse_size_argument(const std::string& what, const std::string& text) {
  auto size = pcow::parse_size(text);
  if (!size) throw tools::UsageError(what + ": " + size.error().message);
  return *size;
}

void check_virtual_size(const std::string& doing, uint64_t size) {
  if (size >= pcow::kMinVirtualSize && size <= pcow::kMaxVirtualSize &&
      size % pcow::kChunkSize == 0) {
    return;
  }
  throw tools::Failure(doing + ": a virtual size of " + std::to_string(size) +
                       " bytes is not possible; give a multiple of 2M, from 2M to 32T");
}

}  // namespace pcow_img
