// SPDX-License-Identifier: BSD-3-Clause
//
// Space ahead of need, as far as it is about this image's tables (reserve_ahead.h).
//
// Calls that change what the active layer is, or give back space themselves, give back what is
// reserved ahead before they begin. A crash leaves it as zeros that nobody owns.
//
// All of this is a hint: memory that runs out here does not make the call fail that came by.
#include <new>

#include "pcow/engine/image_impl.h"

namespace pcow {

void ImageImpl::start_ahead(uint64_t bytes_max) {
  if (bytes_max < kPageSize || access_ != Access::kReadWrite) return;
  if (auto space = DirectSpace::open(*media_)) {
    ahead_ = std::make_unique<ReserveAhead>(*std::move(space), bytes_max);
  }
}

// A table that cannot be read is for those to report who need it.
std::optional<ReserveAhead::View> ImageImpl::ahead_view(ChunkIndex chunk) const {
  GibWriter writer;
  if (chunk.value >= virtual_size_ / kChunkSize || !plan_gib(gib_of(chunk), writer) ||
      !writer.own) {
    return std::nullopt;
  }
  const uint64_t in_segment = chunk_in_segment(chunk);
  const auto map = writer.own->page_map(in_segment, writer.entries.entry(in_segment));
  if (!map) return std::nullopt;
  return ReserveAhead::View{writer.entries.segment_offset() + in_segment * kWindowSize,
                            to_page_map(*map)};
}

// Invariant 3. On failure the space reserved so far stays behind as zeros that nobody owns;
// reclaim_unowned() returns it.
Result<void> ImageImpl::reserve_pages(const std::vector<Range>& ranges) {
  for (const auto& [offset, length] : ahead_ ? ahead_->take(ranges) : ranges) {
    PCOW_TRY(media_->reserve(offset, length));
  }
  return {};
}

void ImageImpl::note_filled(const std::vector<ChunkIndex>& chunks) {
  if (!ahead_) return;
  try {
    for (const ChunkIndex chunk : chunks) ahead_->note(chunk);
  } catch (const std::bad_alloc&) {
    // They are written all the same.
  }
}

void ImageImpl::pause_ahead() const {
  if (ahead_) ahead_->pause();
}

void ImageImpl::resume_ahead() {
  if (!ahead_ || failed_) return;
  ahead_->pause();  // a call within this one has resumed it
  try {
    ahead_->resume([this](ChunkIndex chunk) { return ahead_view(chunk); },
                   ChunkIndex(virtual_size_ / kChunkSize));
  } catch (const std::bad_alloc&) {
    // It stands still until the next call.
  }
}

bool ImageImpl::give_back_ahead() {
  return ahead_ &&
         ahead_->give_back([this](ChunkIndex chunk) { return ahead_view(chunk); }, media_->file());
}

Result<void> ImageImpl::with_space(const std::function<Result<void>()>& body) {
  Result<void> result = body();
  if (result || failed_ || result.error().code != Code::kNoSpace || !give_back_ahead()) {
    return result;
  }
  return body();
}

}  // namespace pcow
