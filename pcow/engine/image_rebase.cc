// SPDX-License-Identifier: BSD-3-Clause
//
// Another base for an image, or none.
//
// rebase() keeps what a guest sees. The crash argument, for what the active layer shows:
//
//   1. Each page that no layer owns and that the two bases show differently is written into the
//      image, as the old base shows it. Its data and its ownership are one transaction
//      (image_write.cc: a page that something lies beneath), and the data is what was shown before,
//      so that nobody sees the difference: before, between or after any of them.
//   2. commit(): all of it is durable.
//   3. One update of the superblock names the new base. Before it every page reads as ever by way
//      of the old base, after it by way of the new one: those not owned are the same in both.
//
// So a crash leaves the old base or the new one, and the same content; what step 1 added is in the
// way of nobody, and doing it again goes on from there. Nothing but the superblock says which base
// it is: that is why the end up to which the base shows is the smaller of two numbers, of which one
// stands beside the reference (FORMAT.md, section 11).
//
// set_base() is step 3 alone.
#include <algorithm>
#include <cstring>

#include "pcow/base/no_memory.h"
#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BaseReference;

// Writes the pages of a chunk that differ; `candidates` are those that could.
Result<void> ImageImpl::keep_chunk(uint64_t start, const std::vector<bool>& candidates,
                                   const BaseView& now, const BaseView& next) {
  std::vector<std::byte> content(kChunkSize);
  std::vector<std::byte> other(kPageSize);
  std::vector<PageWrite> writes;
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if (!candidates[page]) continue;
    const auto shown = std::span(content).subspan(page * kPageSize, kPageSize);
    PCOW_TRY(now.read(start + page * kPageSize, shown));
    PCOW_TRY(next.read(start + page * kPageSize, other));
    if (std::memcmp(shown.data(), other.data(), kPageSize) == 0) continue;
    writes.push_back({PageIndex(start / kPageSize + page), shown.data()});
  }
  if (writes.empty()) return {};
  PCOW_TRY(write_pages(writes));
  return {};
}

// Step 1. A GiB that neither base holds data in costs no more than asking them.
Result<void> ImageImpl::keep_content(const BaseView& now, const BaseView& next,
                                     const Progress& progress) {
  const uint64_t end = round_up(std::max(now.end, next.end), kChunkSize);  // in the image
  for (uint64_t at = 0; at < end; at += kGiB) {
    const uint64_t length = std::min(kGiB, end - at);
    std::vector<bool> candidates(length / kPageSize);
    PCOW_TRY(now.add_pages(at, candidates));
    PCOW_TRY(next.add_pages(at, candidates));
    if (std::find(candidates.begin(), candidates.end(), true) == candidates.end()) continue;
    PCOW_TRY(map_layers(at, length, [&](const MapExtent& run) {
      const auto first = static_cast<std::ptrdiff_t>((run.start - at) / kPageSize);
      const auto count = static_cast<std::ptrdiff_t>(run.length / kPageSize);
      if (run.data) std::fill_n(candidates.begin() + first, count, false);
    }));
    for (uint64_t start = at; start < at + length; start += kChunkSize) {
      const auto first = candidates.begin() + static_cast<std::ptrdiff_t>((start - at) / kPageSize);
      const auto last = first + kPagesPerChunk;
      if (std::find(first, last, true) == last) continue;
      const std::vector<bool> of_chunk(first, last);
      PCOW_TRY(keep_chunk(start, of_chunk, now, next));
    }
    if (progress) progress(at + length, end);
  }
  return {};
}

// Step 3.
Result<void> ImageImpl::store_reference(const BaseReference& reference) {
  PCOW_TRY(begin_writing());
  format::Superblock next = superblocks_.current();
  next.base = reference;
  next.incompatible = next.incompatible & ~format::kIncompatibleBase;
  if (reference.format != 0) next.incompatible = next.incompatible | format::kIncompatibleBase;
  return update_superblock(next);
}

// The reference that `base` asks for, all zero for none.
Result<BaseReference> ImageImpl::new_reference(const std::optional<Base>& base) const {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  if (!base) return BaseReference{};
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  if (record.base_size == 0) {
    return make_error(Code::kInvalid,
                      "'" + media_->file().path() +
                          "' was made without a base, and nothing of one would show: make a new "
                          "image on it with 'pcow-img create -b'");
  }
  return BaseImage::refer(media_->file().path(), base->path, base->format);
}

Result<void> ImageImpl::set_base(const std::optional<Base>& base) {
  PCOW_TRY_ASSIGN(const BaseReference reference, new_reference(base));
  PCOW_TRY(commit());
  PCOW_TRY(store_reference(reference));
  base_.reset();
  return {};
}

Result<void> ImageImpl::rebase(const std::optional<Base>& base, const Progress& progress) {
  PCOW_TRY_ASSIGN(const BaseReference reference, new_reference(base));
  const std::string& path = media_->file().path();
  PCOW_TRY_ASSIGN(const std::vector<SnapshotInfo> kept, snapshots());
  if (!kept.empty()) {
    return make_error(Code::kUnsupported,
                      "'" + path +
                          "' has snapshots, which show its base as well and cannot be written to: "
                          "delete them first, or use 'pcow-img rebase -u' if the new base holds "
                          "the same");
  }
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  if (end_of_base > 0 && !base_) return base_not_open();
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  std::unique_ptr<BaseImage> opened;
  if (base) {
    OpenOptions options;
    options.base = base_access_ == BaseAccess::kFollow ? base_access_ : BaseAccess::kRefuse;
    OpenFiles files;
    PCOW_TRY(note_files(media_->file(), files));
    PCOW_TRY_ASSIGN(opened, BaseImage::open(reference, path, options, files));
  }
  const BaseView now{base_.get(), end_of_base};
  const BaseView next{opened.get(), std::min<uint64_t>(record.base_size, reference.base_size)};
  next_base_ = opened ? &next : nullptr;
  Result<void> kept_content =
      memory_checked(path, [&] { return keep_content(now, next, progress); });
  next_base_ = nullptr;
  PCOW_TRY(kept_content);
  PCOW_TRY(commit());
  PCOW_TRY(store_reference(reference));
  base_ = std::move(opened);
  return {};
}

}  // namespace pcow
