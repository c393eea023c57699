// SPDX-License-Identifier: BSD-3-Clause
//
// Writing an image down into its base.
//
// The crash argument. Where the image owns a page, or where its base has ended to show, it does not
// show the base; these are the only pages of the base that are written. So whatever part of them
// has been, at whatever time, and whether it is durable or not, the image shows the same through
// that base as through the one before. Only the generation of the base would tell that it was
// written to, and make it refused; hence:
//
//   1. announce: the reference allows for the generation that the base has and for its next one
//      (for any mtime of a raw base), by one update of the superblock
//   2. the base is opened for writing and written, made durable and closed: it has one of the two
//   3. the reference is to what the base is now, by one update of the superblock
//   4. the image gives up the pages that the base shows now as well, by transactions, after 3
//
// After a crash, or an error, between 1 and 3 the image is as it was, and doing it again goes on:
// step 1 then begins with the generation that the base was left with.
#include <algorithm>
#include <cstring>

#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BaseReference;

namespace {

// As much of an image as is kept in memory, and no more than a transaction of shrinking takes.
constexpr size_t kPagesPerWrite = kPagesPerChunk;
constexpr uint64_t kDropStep = 16 * kGiB;

}  // namespace

Result<void> ImageImpl::check_commit_down() const {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  const std::string name = "'" + media_->file().path() + "'";
  if ((superblocks_.current().incompatible & format::kIncompatibleBase) == 0) {
    return make_error(Code::kInvalid, name + " has no base that it could be written to");
  }
  if (!base_) return base_not_open();
  PCOW_TRY_ASSIGN(const std::vector<SnapshotInfo> kept, snapshots());
  if (!kept.empty()) {
    return make_error(Code::kUnsupported, name +
                                              " has snapshots, which show its base as well: "
                                              "delete them first, or make an image of its own with "
                                              "'pcow-img convert --allow-base'");
  }
  // What there is behind the end of the base would have no place in it.
  const uint64_t end = base_->size();
  std::vector<std::byte> page(kPageSize);
  Result<void> fits;
  const auto look = [&](const MapExtent& run) {
    for (uint64_t at = run.start; run.data && at < run.start + run.length && fits;
         at += kPageSize) {
      fits = read_owned(*run.file_offset + (at - run.start), page);
      const uint64_t inside = at < end ? std::min(kPageSize, end - at) : 0;
      const auto beyond = std::span(page).subspan(inside);
      const bool zero = std::all_of(beyond.begin(), beyond.end(),
                                    [](std::byte byte) { return byte == std::byte{0}; });
      if (!fits || zero) continue;
      fits =
          make_error(Code::kInvalid, name + " holds data at offset " + std::to_string(at + inside) +
                                         ", behind the end of its base of " + std::to_string(end) +
                                         " bytes: make an image of its own with 'pcow-img convert "
                                         "--allow-base'");
    }
  };
  const uint64_t from = end / kPageSize * kPageSize;
  if (from < virtual_size_) PCOW_TRY(map_layers(from, virtual_size_ - from, look));
  return fits;
}

// Writes those pages of the run that the base has otherwise. `shown`: what shows where the image
// owns nothing, by way of the same base.
Result<void> ImageImpl::write_run_down(const MapExtent& run, const BaseView& shown,
                                       BaseImage& base) {
  const uint64_t stop = std::min(run.start + run.length, round_up(base.size(), kPageSize));
  std::vector<std::byte> content(kPagesPerWrite * kPageSize);
  std::vector<std::byte> there(kPageSize);
  std::vector<PageWrite> writes;
  for (uint64_t at = run.start; at < stop; at += kPageSize) {
    const auto page = std::span(content).subspan(writes.size() * kPageSize, kPageSize);
    PCOW_TRY(run.data ? read_owned(*run.file_offset + (at - run.start), page)
                      : shown.read(at, page));
    PCOW_TRY(base.read(at, there));
    if (std::memcmp(page.data(), there.data(), kPageSize) != 0) {
      writes.push_back({PageIndex(at / kPageSize), page.data()});
    }
    if (writes.size() < kPagesPerWrite && at + kPageSize < stop) continue;
    PCOW_TRY(base.write(writes));
    writes.clear();
  }
  return {};
}

// Step 2.
Result<void> ImageImpl::write_down(BaseImage& base, const Progress& progress) {
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  const BaseView shown{&base, end_of_base};
  // Where the base does not show any more, zeros do, or a part of a page.
  const uint64_t zeros_from = end_of_base / kPageSize * kPageSize;
  const uint64_t end = std::min(virtual_size_, round_up(base.size(), kChunkSize));
  for (uint64_t at = 0; at < end; at += kGiB) {
    const uint64_t length = std::min(kGiB, end - at);
    std::vector<bool> held(length / kPageSize);  // by the base
    PCOW_TRY((BaseView{&base, base.size()}.add_pages(at, held)));
    Result<void> result;
    const auto visit = [&](const MapExtent& run) {
      if (!result) return;
      if (run.data) {
        result = write_run_down(run, shown, base);
        return;
      }
      for (uint64_t page = std::max(run.start, zeros_from); page < run.start + run.length && result;
           page += kPageSize) {
        if (!held[(page - at) / kPageSize]) continue;
        result = write_run_down({.start = page, .length = kPageSize}, shown, base);
      }
    };
    PCOW_TRY(map_layers(at, length, visit));
    PCOW_TRY(result);
    if (progress) progress(at + length, end);
  }
  return {};
}

// Step 4: the chunks below `end` own nothing any more.
Result<void> ImageImpl::drop_below(uint64_t end) {
  for (uint64_t at = 0; at < end; at += kDropStep) {
    const ChunkIndex first(at / kChunkSize);
    const ChunkIndex stop(std::min(end, at + kDropStep) / kChunkSize);
    const auto change = [&]() -> Result<void> {
      PCOW_TRY(note_trim(first, stop));
      return commit_transaction();
    };
    PCOW_TRY(with_transaction(change));
    PCOW_TRY(finish_trim());
  }
  return media_->flush();
}

Result<void> ImageImpl::commit_to_base(bool keep_pages, const Progress& progress) {
  PCOW_TRY(check_commit_down());
  PCOW_TRY(commit());
  give_back_ahead();
  const std::string& path = media_->file().path();
  const BaseReference before = superblocks_.current().base;
  OpenOptions options;
  options.base = base_access_;
  OpenFiles files;
  PCOW_TRY(note_files(media_->file(), files));
  base_.reset();  // it holds the base against writers
  PCOW_TRY_ASSIGN(const BaseReference announced, BaseImage::announce(before, path, options, files));
  PCOW_TRY(store_reference(announced));
  auto base = BaseImage::open_for_writing(announced, path, options, files);
  if (!base) {
    // Nothing was written, so that nothing but the generation before is right again.
    if (base.error().code == Code::kBusy) PCOW_TRY(store_reference(before));
    return std::move(base).error();
  }
  PCOW_TRY(write_down(**base, progress));
  PCOW_TRY_ASSIGN(const BaseReference after, (*base)->finish_writing());
  PCOW_TRY(store_reference(after));
  if (keep_pages) return {};
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  return drop_below(end_of_base / kChunkSize * kChunkSize);
}

}  // namespace pcow
