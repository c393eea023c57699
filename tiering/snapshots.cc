// SPDX-License-Identifier: BSD-3-Clause
//
// Snapshots of the image that a region maps: taken, and deleted, while the guest runs.
//
// Taking one changes no window and no mapping: what is frozen is what the last commit made durable,
// and the guest's stores go to copies in DRAM anyway. What must not be in between is a part of an
// epoch: its pages are in the log already, and freezing would commit them. Hence
// check_between_epochs().
//
// Deleting one moves pages between windows, and gives up segments. What becomes of the mappings:
//   S1  A mapping goes on showing what it showed, for every page that has no copy in DRAM, as long
//       as its segment is not emptied (M1 to M4 in pcow/engine/image_deletion.cc). So I1 holds
//       whenever the image moves pages, and mappings need not change at that moment.
//   S2  The image empties a segment only when it was told that no chunk is mapped from it:
//       continue_deletion() looks at all of `chunks_`, which has what is mapped. What it finds in
//       use it remembers: `given_up_`.
//   S3  After that nobody maps the segment anew before the image hands it out again: places come
//       from Image::layout(), which names no segment that was given up, and what was planned before
//       is dropped (`plan_`).
//   S4  At the next barrier the chunks that are mapped from `given_up_` are mapped from where the
//       image has them by then, if the image has at that place what memory holds; where it has not
//       (pages in the log, pages of several layers) a copy is made of what the image shows, which
//       is what memory holds (I2). A chunk under pin(), or one that somebody stored to although he
//       should not, stays and is tried again.
// So a segment waits as long as one chunk of it is pinned, or no mapping is left in the budget; its
// space is given back later, nothing else.
#include <algorithm>
#include <cstring>

#include "pcow/base/zero.h"
#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::Code;
using pcow::FilePlace;
using pcow::GibIndex;
using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using Kind = pcow::GibLayout::Kind;

namespace {

// Chunks that one barrier copies: each takes about as long as a barrier should.
constexpr uint64_t kCopiesMax = 1;

// Chunks of one segment that one commit folds.
constexpr uint64_t kFoldsMax = 32;

bool is_pinned(ChunkIndex chunk, const PageSet& pinned) {
  const pcow::PageIndex first = pcow::first_page(chunk);
  for (uint64_t i = 0; !pinned.empty() && i < kPagesPerChunk; ++i) {
    if (pinned.contains(first + i)) return true;
  }
  return false;
}

}  // namespace

pcow::Result<void> RegionImpl::check_between_epochs() const {
  if (!sealed_ && !epoch_open_) return {};
  return pcow::make_error(Code::kInvalid, "an epoch is being made: try again when it is committed");
}

pcow::Result<void> RegionImpl::create_snapshot(std::string_view name) {
  PCOW_TRY(check_between_epochs());
  if (options_.persistence == Persistence::kVolatile && remembered_pages() > 0) {
    return pcow::make_error(Code::kInvalid,
                            "the last commit failed, so the image is between two states: commit "
                            "again before taking a snapshot");
  }
  return image_.create_snapshot(name);
}

pcow::Result<void> RegionImpl::begin_deletion(std::string_view name) {
  PCOW_TRY(check_between_epochs());
  return image_.begin_deletion(name);
}

bool RegionImpl::maps(ChunkIndex chunk, const std::vector<FilePlace>& segment) const {
  return chunks_.state(chunk) == ChunkState::kCached &&
         chunks_.place(chunk) == pcow::place_in_segment(segment, pcow::chunk_in_segment(chunk));
}

// A segment holds the windows of one GiB.
std::optional<GibIndex> RegionImpl::gib_mapped_from(const std::vector<FilePlace>& segment) const {
  for (ChunkIndex chunk(0); chunk.value < chunks_.chunks(); ++chunk) {
    if (maps(chunk, segment)) return pcow::gib_of(chunk);
  }
  return std::nullopt;
}

pcow::Result<pcow::DeletionReport> RegionImpl::continue_deletion(uint64_t pages_max) {
  PCOW_TRY(check_between_epochs());
  plan_ = {};
  given_up_.clear();
  const auto in_use = [&](const std::vector<FilePlace>& segment) {
    if (!gib_mapped_from(segment)) return false;
    given_up_.push_back(segment);
    return true;
  };
  auto report = image_.continue_deletion(pages_max, in_use);
  leaving_ = !given_up_.empty();
  return report;
}

// Maps chunks from where the image has them now. REQUIRES: as apply_demotion(), or, without epochs,
// as demote(). Returns how many.
pcow::Result<uint64_t> RegionImpl::leave_given_up() {
  uint64_t left = 0;
  uint64_t copies_left = kCopiesMax;
  for (const std::vector<FilePlace>& segment : given_up_) {
    const std::optional<GibIndex> gib = gib_mapped_from(segment);
    if (!gib) continue;
    PCOW_TRY_ASSIGN(const uint64_t moved, leave_segment(segment, *gib, copies_left));
    left += moved;
  }
  // Where nothing can be done, an idle guest is not stopped to try it again.
  leaving_ = left > 0;
  if (rearm_due_) PCOW_TRY(tracker_->rearm());
  rearm_due_ = false;
  return left;
}

// Whether what the image has at the chunk's place is what memory holds: then the copies in DRAM are
// not needed. REQUIRES: nothing in it is dirty.
pcow::Result<bool> RegionImpl::may_leave(ChunkIndex chunk, const ChunkView& view) const {
  if (view.place.kind == Kind::kMixed) return false;
  if (options_.persistence == Persistence::kVolatile) return true;
  PCOW_TRY_ASSIGN(const pcow::PageMap unstored, unstored_pages(chunk));
  if (unstored.any()) return false;
  // What the epoch that is not committed yet has stored at its place does not stay there for
  // certain.
  const pcow::PageIndex first = pcow::first_page(chunk);
  for (pcow::PageIndex page = first; page < first + kPagesPerChunk; ++page) {
    if (stored_since_plan_.contains(page)) return false;
  }
  return true;
}

// Makes a chunk a hole of the region: with copies of what the image shows, unless that is zero.
pcow::Result<void> RegionImpl::map_copy(ChunkIndex chunk, bool zero) {
  scratch_.resize(kChunkSize);
  if (!zero) PCOW_TRY(image_.read(chunk.value * kChunkSize, scratch_));
  PCOW_TRY(space_.map_anonymous(chunk.value * kChunkSize, kChunkSize));
  chunks_.set_holes({chunk, 1});
  // Before there are pages; but whatever it says, nothing may stay zero that is not.
  pcow::Result<void> result = give_attributes({chunk, 1}, kernel::HugePages::kNever);
  std::byte* start = space_.at(chunk.value * kChunkSize);
  for (uint64_t at = 0; !zero && at < kChunkSize; at += kPageSize) {
    const std::byte* page = scratch_.data() + at;
    if (!pcow::is_zero_page(page)) std::memcpy(start + at, page, kPageSize);
  }
  return result;
}

pcow::Result<uint64_t> RegionImpl::leave_segment(const std::vector<FilePlace>& segment,
                                                 GibIndex gib, uint64_t& copies_left) {
  const bool epochs = options_.persistence == Persistence::kEpoch;
  PCOW_TRY_ASSIGN(GibView view, view_gib(gib));
  PCOW_TRY(place_chunks(gib, view));
  const ChunkRun all = chunks_.gib_run(gib);
  uint64_t folds_left = epochs ? 0 : kFoldsMax;
  for (ChunkIndex chunk = all.first; chunk < all.end() && folds_left > 0; ++chunk) {
    const ChunkView& here = view.chunks.at(pcow::chunk_in_segment(chunk));
    if (here.place.kind != Kind::kMixed || here.dirty || !maps(chunk, segment)) continue;
    PCOW_TRY_ASSIGN(const bool folded, fold({chunk, 1}));
    if (!folded) break;
    --folds_left;
    PCOW_TRY(place_chunks(gib, view));
  }
  PCOW_TRY_ASSIGN(const pcow::GibLayout layout, image_.layout(gib));
  const auto leave = [&](const PageSet& pinned) -> pcow::Result<uint64_t> {
    std::vector<WindowRun> runs;
    std::vector<std::pair<ChunkIndex, bool>> copies;  // whether it is zero
    for (ChunkIndex chunk = all.first; chunk < all.end(); ++chunk) {
      if (!maps(chunk, segment) || is_pinned(chunk, pinned)) continue;
      const ChunkView& here = view.chunks.at(pcow::chunk_in_segment(chunk));
      if (here.dirty) continue;
      PCOW_TRY_ASSIGN(const bool clean, may_leave(chunk, here));
      if (!clean) {
        if (epochs && copies_left > 0) {
          --copies_left;
          copies.emplace_back(chunk, false);
        }
      } else if (here.place.kind == Kind::kWindow) {
        add_conversion(runs, chunk, here.place.window);
      } else if (!layout.segment.empty()) {
        add_conversion(runs, chunk,
                       pcow::place_in_segment(layout.segment, pcow::chunk_in_segment(chunk)));
      } else {
        copies.emplace_back(chunk, true);
      }
    }
    uint64_t left = 0;
    for (const WindowRun& run : runs) {
      if (chunks_.mappings_after(run.run, run.place) > options_.mapping_budget) continue;
      PCOW_TRY(map_cached(run.run, run.place));
      left += run.run.count;
    }
    for (const auto& [chunk, zero] : copies) {
      if (chunks_.mappings() + 2 > options_.mapping_budget) continue;
      PCOW_TRY(map_copy(chunk, zero));
      ++left;
    }
    return left;
  };
  return pins_.while_held(leave);
}

}  // namespace tiering
