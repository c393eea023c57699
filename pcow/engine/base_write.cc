// SPDX-License-Identifier: BSD-3-Clause
//
// Writing to the base of an image: see image_commit_down.cc for who does, and why it is announced.
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "pcow/base/printable.h"
#include "pcow/base/zero.h"
#include "pcow/engine/base_image.h"
#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BaseReference;

Result<BaseReference> BaseImage::announce(const BaseReference& reference,
                                          const std::string& image_path, const OpenOptions& options,
                                          OpenFiles files) {
  PCOW_TRY_ASSIGN(std::unique_ptr<BaseImage> base, open(reference, image_path, options, files));
  BaseReference announced = reference;
  if (base->image_) {
    PCOW_TRY_ASSIGN(const std::vector<SnapshotInfo> snapshots, base->image_->snapshots());
    if (!snapshots.empty()) {
      return make_error(Code::kUnsupported,
                        printable("'" + base->path_ + "', the base of '" + image_path +
                                  "', has snapshots and is not written to: delete them first"));
    }
    announced.generation = base->image_->info().generation;
  } else {
    PCOW_TRY_ASSIGN(const RawState state, raw_state(*base->raw_));
    announced.generation = state.mtime_ns;
  }
  announced.next_generation = announced.generation + 1;
  // Found out before the image is changed, as far as that is possible.
  const std::string path = base->path_;
  base.reset();
  PCOW_TRY_ASSIGN(const File file, File::open(path, File::Mode::kReadWrite));
  PCOW_TRY(file.lock(true));
  return announced;
}

Error BaseImage::changed_meanwhile() const {
  return make_error(Code::kCorrupt, printable("'" + path_ + "' was changed in this very moment"));
}

Result<void> BaseImage::open_raw_for_writing() {
  PCOW_TRY_ASSIGN(File file, File::open(path_, File::Mode::kReadWrite));
  PCOW_TRY(file.lock(true));
  PCOW_TRY_ASSIGN(const RawState state, raw_state(file));
  if (state.size != size_ || state.mtime_ns != reference_.generation) return changed_meanwhile();
  raw_ = std::move(file);
  return {};
}

// Recovers a base that an earlier try left unclean, which is the announced change already.
Result<void> BaseImage::open_image_for_writing(const OpenOptions& options, OpenFiles& files) {
  OpenOptions writable = options;
  writable.access = Access::kReadWrite;
  PCOW_TRY_ASSIGN(image_, ImageImpl::open_impl(path_, writable, files));
  const uint64_t generation = image_->info().generation;
  if (static_cast<const ImageImpl&>(*image_).uuid() != reference_.uuid ||
      image_->virtual_size() != size_ ||
      (generation != reference_.generation && generation != reference_.next_generation)) {
    return changed_meanwhile();
  }
  return {};
}

Result<std::unique_ptr<BaseImage>> BaseImage::open_for_writing(const BaseReference& announced,
                                                               const std::string& image_path,
                                                               const OpenOptions& options,
                                                               OpenFiles files) {
  std::unique_ptr<BaseImage> base(new BaseImage());
  base->path_ = base_path(announced, image_path);
  base->size_ = announced.base_size;
  base->reference_ = announced;
  const bool raw = announced.format == static_cast<uint32_t>(BaseFormat::kRaw);
  Result<void> opened =
      raw ? base->open_raw_for_writing() : base->open_image_for_writing(options, files);
  if (!opened) return std::move(opened).error();
  return base;
}

Result<void> BaseImage::write(std::span<const PageWrite> pages) {
  if (image_) {
    PCOW_TRY(image_->write_pages(pages));
    return {};
  }
  for (const PageWrite& write : pages) {
    const uint64_t offset = write.page.value * kPageSize;
    if (offset >= size_) continue;
    const uint64_t length = std::min(kPageSize, size_ - offset);
    if (is_zero_page(write.data)) {
      PCOW_TRY(raw_->punch(offset, length));
      continue;
    }
    const iovec part = {const_cast<std::byte*>(write.data), length};  // iovec is not const-correct
    PCOW_TRY(raw_->write(offset, std::span(&part, 1)));
  }
  return {};
}

Result<BaseReference> BaseImage::finish_writing() {
  reference_.next_generation = 0;
  if (image_) {
    PCOW_TRY(image_->commit());
    PCOW_TRY(image_->close());
    reference_.generation = image_->info().generation;
  } else {
    // With its mtime, which fdatasync(2) leaves out.
    PCOW_TRY(raw_->sync_with_times());
    PCOW_TRY_ASSIGN(const RawState state, raw_state(*raw_));
    reference_.generation = state.mtime_ns;
  }
  return reference_;
}

}  // namespace pcow
