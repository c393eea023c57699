// SPDX-License-Identifier: BSD-3-Clause
//
// Opening any file to read it: it opens, or the error says that the file is at fault; what opens
// can be read and mapped without leaving the file, and so can a snapshot of it.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/patched_image.h"
#include "tests/fuzz/read_image.h"

using fuzz::require;
using pcow::Code;

namespace {

void require_at_fault(const pcow::Error& error) {
  const Code code = error.code;
  // A file that a stripe set names need not be there, or be a file.
  if (error.message.find("of stripe set '") != std::string::npos) return;
  require(code == Code::kForeign || code == Code::kUnsupported || code == Code::kCorrupt,
          "an image that does not open is at fault: " + error.message);
}

// Opens one of the snapshots that the image lists.
void read_snapshot(const pcow::Image& image, const std::string& path, uint8_t choice,
                   pcow::OpenOptions options) {
  const auto list = image.snapshots();
  if (!list) return require_at_fault(list.error());
  if (list->empty()) return;
  const pcow::SnapshotInfo& info = (*list)[choice % list->size()];
  options.snapshot = info.name;
  const auto snapshot = pcow::Image::open(path, options);
  if (!snapshot) return require_at_fault(snapshot.error());
  fuzz::read_image(**snapshot);
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::ImageInput input = fuzz::decode({data, size});
  const fuzz::ImageFile file(fuzz::patch_template(input));
  pcow::OpenOptions options;
  options.force_share = (input.flags & fuzz::kFlagForceShare) != 0;
  options.replay_in_memory = (input.flags & fuzz::kFlagReplay) != 0;
  const auto image = pcow::Image::open(file.path(), options);
  if (!image) {
    const bool replay_wanted = image.error().code == Code::kNeedsRecovery;
    if (!replay_wanted || options.replay_in_memory) require_at_fault(image.error());
    return 0;
  }
  fuzz::read_image(**image);
  read_snapshot(**image, file.path(), input.choice(), options);
  return 0;
}
