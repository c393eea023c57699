// SPDX-License-Identifier: BSD-3-Clause
//
// Demotion: drops DRAM copies until at most dram_size is resident.
//
// REQUIRES (commit.cc sees to it): Image::commit() has just succeeded, `pending_` is empty, nobody
// stores into the region. By I2 every armed private copy then equals the image's page. A copy that
// is dirty all the same, because somebody broke the rule, is left alone with its whole chunk.
//
//   what the mapping shows beneath the copies     what happens
//   the image's pages (or zeros, as the image)    copies are dropped page by page
//   something else: a hole, or the window of an   the chunk is mapped from the image's window, if
//   older layer                                   the mapping budget allows
//
// A chunk whose pages lie in the windows of several layers is folded first (Image::fold()).
//
// When the budget is used up, whole GiBs become one mapping each, or, of a stripe set, one for each
// unit. Chunks that still find no room
// stay in DRAM.
//
// A clock hand goes round the region, so that what was dropped last is dropped last again.
#include <algorithm>
#include <optional>

#include "tiering/kernel/vma_list.h"
#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::kChunkSize;
using pcow::kChunksPerSegment;
using pcow::kPageSize;
using Kind = pcow::GibLayout::Kind;

pcow::Result<uint64_t> RegionImpl::demote() {
  if (dram_size_ == 0) return uint64_t{0};
  PCOW_TRY_ASSIGN(const uint64_t resident, count_resident());
  if (resident <= dram_size_) return uint64_t{0};
  const uint64_t wanted = pcow::round_up(resident - dram_size_, kPageSize) / kPageSize;
  uint64_t dropped = 0;
  // Once round the region at most; the GiB in which the hand starts is seen in two parts.
  for (uint64_t travelled = 0; travelled < chunks_.chunks() && dropped < wanted;) {
    const ChunkIndex from = hand_;
    PCOW_TRY(demote_gib(from, wanted - dropped, dropped));
    travelled += (hand_ > from ? hand_.value : chunks_.chunks()) - from.value;
  }
  return dropped;
}

// Drops up to about `wanted` pages from the hand to the end of its GiB, and moves the hand.
pcow::Result<void> RegionImpl::demote_gib(ChunkIndex from, uint64_t wanted, uint64_t& dropped) {
  const GibIndex gib = pcow::gib_of(from);
  PCOW_TRY_ASSIGN(GibView view, view_gib(gib));
  if (view.resident > 0) PCOW_TRY(place_chunks(gib, view));
  Demotion plan = pick(view, from, wanted, true);
  if (!plan.shared.empty()) {
    bool folded = true;
    for (const ChunkIndex chunk : plan.shared) {
      PCOW_TRY_ASSIGN(folded, fold({chunk, 1}));
      if (!folded) break;  // what is still shared stays in DRAM
    }
    PCOW_TRY(place_chunks(gib, view));
    plan = pick(view, from, wanted, folded);
  }
  hand_ = plan.next_hand;
  uint64_t here = 0;
  Conversion done = Conversion::kNone;
  for (const WindowRun& conversion : plan.conversions) {
    PCOW_TRY_ASSIGN(done, convert(view, conversion, dropped));
    if (done == Conversion::kWholeGib) break;
    if (done == Conversion::kRun) here += view.resident_in(conversion.run);
  }
  if (done == Conversion::kWholeGib) {
    here = view.resident;
  } else {
    PCOW_TRY(drop_copies(plan.drops));
    for (const AddressRange& range : plan.drops) here += range.length / kPageSize;
  }
  dropped += here;
  if (rearm_due_) PCOW_TRY(tracker_->rearm());
  rearm_due_ = false;
  return {};
}

// False when the medium is full.
pcow::Result<bool> RegionImpl::fold(ChunkRun run) {
  const auto folded = image_.fold(run.first, run.count);
  if (!folded && folded.error().code == pcow::Code::kNoSpace) return false;
  PCOW_TRY(folded);
  return true;
}

uint64_t RegionImpl::GibView::resident_in(ChunkRun run) const {
  uint64_t pages = 0;
  for (ChunkIndex c = run.first; c < run.end(); ++c) {
    pages += chunks.at(pcow::chunk_in_segment(c)).resident;
  }
  return pages;
}

pcow::Result<RegionImpl::GibView> RegionImpl::view_gib(GibIndex gib) {
  GibView view;
  const ChunkRun run = chunks_.gib_run(gib);
  const std::byte* start = range_of(run).start;
  // Splits the kernel's runs at chunks.
  const auto note = [&](AddressRange range, PageState state) {
    while (range.length > 0) {
      const auto offset = static_cast<uint64_t>(range.start - start);
      const uint64_t index = offset / kChunkSize;
      const uint64_t length = std::min(range.length, (index + 1) * kChunkSize - offset);
      ChunkView& chunk = view.chunks.at(index);
      chunk.dirty |= state.dirty;
      if (state.resident) {
        if (!state.dirty) {
          if (chunk.run_count++ == 0) chunk.first_run = static_cast<uint32_t>(view.runs.size());
          view.runs.push_back({range.start, length});
        }
        chunk.resident += static_cast<uint32_t>(length / kPageSize);
        view.resident += length / kPageSize;
      }
      view.dirty |= state.dirty;
      range = {range.start + length, range.length - length};
    }
  };
  PCOW_TRY(tracker_->inspect(range_of(run), note));
  return view;
}

pcow::Result<void> RegionImpl::place_chunks(GibIndex gib, GibView& view) {
  PCOW_TRY_ASSIGN(const pcow::GibLayout layout, image_.layout(gib));
  chunks_.set_segment(gib, layout.segment);
  for (uint64_t i = 0; i < kChunksPerSegment; ++i) view.chunks.at(i).place = layout.chunks.at(i);
  return {};
}

bool RegionImpl::shows_image(ChunkIndex chunk, const ChunkView& view) const {
  if (view.place.kind == Kind::kHole) return true;
  return view.place.kind == Kind::kWindow && chunks_.state(chunk) == ChunkState::kCached &&
         chunks_.place(chunk) == view.place.window;
}

// Adds a chunk to the last run if that goes on with it, also in the file.
void RegionImpl::add_conversion(std::vector<WindowRun>& runs, ChunkIndex chunk,
                                pcow::FilePlace window) {
  if (!runs.empty() && runs.back().run.end() == chunk &&
      runs.back().place + runs.back().run.count * kChunkSize == window) {
    ++runs.back().run.count;
  } else {
    runs.push_back({{chunk, 1}, window});
  }
}

// Decides, without touching anything, what of a GiB goes.
RegionImpl::Demotion RegionImpl::pick(const GibView& view, ChunkIndex from, uint64_t wanted,
                                      bool may_fold) const {
  Demotion plan;
  const ChunkIndex end = chunks_.gib_run(pcow::gib_of(from)).end();
  ChunkIndex at = from;
  for (; at < end && plan.pages < wanted; ++at) {
    const ChunkView& chunk = view.chunks.at(pcow::chunk_in_segment(at));
    if (chunk.dirty || chunk.resident == 0) continue;
    const bool shared = chunk.place.kind == Kind::kMixed;
    if (shared && !may_fold) continue;
    if (shared || !shows_image(at, chunk)) {
      plan.pages += chunk.resident;
      if (shared) {
        plan.shared.push_back(at);
      } else {
        add_conversion(plan.conversions, at, chunk.place.window);
      }
      continue;
    }
    for (uint32_t i = 0; i < chunk.run_count && plan.pages < wanted; ++i) {
      AddressRange run = view.runs[chunk.first_run + i];
      run.length = std::min(run.length, (wanted - plan.pages) * kPageSize);
      plan.pages += run.length / kPageSize;
      plan.drops.push_back(run);
    }
  }
  plan.next_hand = at.value < chunks_.chunks() ? at : ChunkIndex(0);
  return plan;
}

// Maps a run from its windows if the budget allows, else the whole GiB, or makes room in other
// GiBs, whose pages it adds to `dropped`.
pcow::Result<RegionImpl::Conversion> RegionImpl::convert(const GibView& view, WindowRun run,
                                                         uint64_t& dropped) {
  if (chunks_.mappings_after(run.run, run.place) > options_.mapping_budget) {
    const GibIndex gib = pcow::gib_of(run.run.first);
    if (chunks_.mappings_if_whole(gib) <= options_.mapping_budget) {
      PCOW_TRY_ASSIGN(const bool whole, collapse(gib, view));
      if (whole) return Conversion::kWholeGib;
    }
    PCOW_TRY_ASSIGN(const bool fits, make_room(run, dropped));
    if (!fits) return Conversion::kNone;
  }
  PCOW_TRY(map_cached(run.run, run.place));
  return Conversion::kRun;
}

// Makes a GiB one mapping, or one for each part of its segment; what lies in the segments of
// several layers is copied together first.
// False when it must stay as it is: a page is dirty, or the medium is full, or nothing is gained.
pcow::Result<bool> RegionImpl::collapse(GibIndex gib, const GibView& view) {
  if (view.dirty) return false;
  const ChunkRun run = chunks_.gib_run(gib);
  if (!chunks_.has_segment(gib)) {
    PCOW_TRY_ASSIGN(const bool folded, fold(run));
    if (!folded) return false;
    PCOW_TRY_ASSIGN(const pcow::GibLayout layout, image_.layout(gib));
    chunks_.set_segment(gib, layout.segment);
    if (layout.segment.empty()) return false;
  }
  // What was folded may have more parts than was reckoned with.
  const uint64_t after = chunks_.mappings_if_whole(gib);
  if (after > options_.mapping_budget && after >= chunks_.mappings()) return false;
  for (const ChunkMap::Part& part : chunks_.parts_of(gib)) {
    PCOW_TRY(map_cached(part.run, part.place));
  }
  return true;
}

// Tries to bring mappings_after(run) within the budget: first by asking the kernel what is really
// used, then by collapsing the most fragmented GiBs.
pcow::Result<bool> RegionImpl::make_room(WindowRun run, uint64_t& dropped) {
  const uint64_t budget = options_.mapping_budget;
  const auto fits = [&] { return chunks_.mappings_after(run.run, run.place) <= budget; };
  if (chunks_.slack() > budget / 64) {
    PCOW_TRY(resync_mappings());
    if (fits()) return true;
  }
  const GibIndex own = pcow::gib_of(run.run.first);
  std::vector<bool> tried(chunks_.gibs());
  tried[own.value] = true;  // its view is in use, and convert() has tried it
  while (!fits()) {
    std::optional<GibIndex> best;
    uint64_t most = 0;
    for (uint64_t gib = 0; gib < chunks_.gibs(); ++gib) {
      if (tried[gib]) continue;
      const uint64_t saves = chunks_.saved_if_whole(GibIndex(gib));
      if (saves > most) {
        most = saves;
        best = GibIndex(gib);
      }
    }
    if (!best) return false;
    tried[best->value] = true;
    PCOW_TRY_ASSIGN(GibView view, view_gib(*best));
    PCOW_TRY(place_chunks(*best, view));
    PCOW_TRY_ASSIGN(const bool whole, collapse(*best, view));
    if (whole) dropped += view.resident;
  }
  return true;
}

pcow::Result<void> RegionImpl::resync_mappings() {
  const uint64_t start = whole().first_address();
  PCOW_TRY_ASSIGN(const auto mappings, kernel::mappings_in(start, start + size()));
  std::vector<ChunkIndex> starts;
  starts.reserve(mappings.size());
  for (const kernel::Mapping& mapping : mappings) {
    starts.emplace_back((mapping.start - start) / kChunkSize);
  }
  chunks_.resync(starts);
  return {};
}

}  // namespace tiering
