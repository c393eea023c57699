// SPDX-License-Identifier: BSD-3-Clause
//
// Opening any file to write to it, which recovers it: on failure the file is as it was; otherwise
// it has the content that replaying the log in memory showed, and a writer may try what it likes.
#include <optional>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/patched_image.h"
#include "tests/fuzz/read_image.h"

using fuzz::require;
using pcow::Access;
using pcow::Code;
using pcow::kPageSize;

namespace {

pcow::Result<std::unique_ptr<pcow::Image>> open_image(const fuzz::ImageFile& file, Access access,
                                                      bool replay) {
  pcow::OpenOptions options;
  options.access = access;
  options.replay_in_memory = replay;
  return pcow::Image::open(file.path(), options);
}

// Nothing when it cannot be opened; an empty digest when a table is damaged.
std::optional<std::optional<uint32_t>> replayed_content(const fuzz::ImageFile& file) {
  const auto image = open_image(file, Access::kReadOnly, true);
  if (!image) return std::nullopt;
  return fuzz::read_image(**image);
}

bool write_last_page(pcow::Image& image) {
  const uint64_t page = image.virtual_size() / kPageSize - 1;
  const std::vector<std::byte> bytes(kPageSize, std::byte{0x5a});
  const pcow::PageWrite write = {pcow::PageIndex(page), bytes.data()};
  return image.write_pages({&write, 1}) && image.commit();
}

// Whether it worked: on a damaged image it need not, but it has to end.
bool try_something(pcow::Image& image, uint8_t choice) {
  const auto list = image.snapshots();
  const std::string first = list && !list->empty() ? list->front().name : "none";
  const std::string last = list && !list->empty() ? list->back().name : "none";
  switch (choice) {
    case 0:
      return image.create_snapshot("fuzz") && write_last_page(image);
    case 1:
      return image.delete_snapshot(first).has_value();
    case 2:
      return image.delete_snapshot(last).has_value();
    case 3:
      return image.apply_snapshot(first).has_value();
    case 4:
      return image.resize(pcow::kChunkSize, true).has_value();
    case 5:
      return image.resize(image.virtual_size() + pcow::kChunkSize, false).has_value();
    case 6:
      return image.reclaim_unowned().has_value();
    default:
      return write_last_page(image);
  }
}

bool is_sound(const fuzz::PatchedImage& image) {
  const fuzz::ImageFile file(image);
  const auto report = pcow::check_image(file.path(), false, {});
  return report && report->corruptions == 0;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::ImageInput input = fuzz::decode({data, size});
  const fuzz::ImageFile file(fuzz::patch_template(input));
  const auto content = replayed_content(file);
  const fuzz::PatchedImage before = file.content();
  auto image = open_image(file, Access::kReadWrite, false);
  if (!image) {
    const fuzz::PatchedImage after = file.content();
    require(after.file_sizes == before.file_sizes && after.pages == before.pages,
            "an image that does not open is left alone: " + image.error().message);
    return 0;
  }
  require(content.has_value(), "what opens for writing opens for reading");
  // Recovery also empties the windows of dropped chunks and gives up the tables of a deleted layer;
  // in a damaged image these may be in use.
  require(fuzz::read_image(**image) == *content || !is_sound(before),
          "recovery does what replaying in memory showed");
  if (!try_something(**image, input.choice()) || !(*image)->close()) return 0;
  image->reset();
  const auto again = open_image(file, Access::kReadOnly, false);
  require(again || again.error().code == Code::kCorrupt,
          again ? "" : "a closed image opens, or is damaged: " + again.error().message);
  return 0;
}
