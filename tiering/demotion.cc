// SPDX-License-Identifier: BSD-3-Clause
//
// Demotion: drops DRAM copies until at most dram_size is resident.
//
// REQUIRES (commit.cc sees to it): Image::commit() has just succeeded, `pending_` is empty, nobody
// stores into the region. By I2 every armed private copy then equals the image's page. A copy that
// is dirty all the same, because somebody broke the rule, is left alone with its whole chunk.
//
//   chunk    image owns pages?   what happens
//   cached   any                 its copies are dropped page by page
//   hole     none                all its copies are zero pages: dropped
//   hole     some                the chunk is mapped from the file, if the mapping budget allows;
//                                its other pages are zero in DRAM and in the file alike
//
// When the budget is used up, whole GiBs become one mapping each. Chunks that still find no room
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
using pcow::kPageSize;

pcow::Result<uint64_t> RegionImpl::demote() {
  if (options_.dram_size == 0) return uint64_t{0};
  PCOW_TRY_ASSIGN(const uint64_t resident, count_resident());
  if (resident <= options_.dram_size) return uint64_t{0};
  const uint64_t wanted = pcow::round_up(resident - options_.dram_size, kPageSize) / kPageSize;
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
  PCOW_TRY_ASSIGN(const GibView view, view_gib(pcow::gib_of(from)));
  const Demotion plan = pick(view, from, wanted);
  hand_ = plan.next_hand;
  const uint64_t cached = chunks_.cached_chunks();
  uint64_t here = 0;
  Conversion done = Conversion::kNone;
  for (const ChunkRun& run : plan.conversions) {
    PCOW_TRY_ASSIGN(done, convert(view, run, dropped));
    if (done == Conversion::kWholeGib) break;
    if (done == Conversion::kRun) here += view.resident_in(run);
  }
  if (done == Conversion::kWholeGib) {
    here = view.resident;
  } else {
    PCOW_TRY(kernel::drop_pages(plan.drops));
    for (const AddressRange& range : plan.drops) here += range.length / kPageSize;
  }
  dropped += here;
  if (chunks_.cached_chunks() != cached) PCOW_TRY(tracker_->rearm());
  return {};
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
        if (chunk.run_count++ == 0) chunk.first_run = static_cast<uint32_t>(view.runs.size());
        view.runs.push_back({range.start, length});
        chunk.resident += static_cast<uint32_t>(length / kPageSize);
        view.resident += length / kPageSize;
      }
      view.dirty |= state.dirty;
      range = {range.start + length, range.length - length};
    }
  };
  PCOW_TRY(tracker_->inspect(range_of(run), note));
  if (view.resident == 0) return view;
  PCOW_TRY_ASSIGN(const std::optional<pcow::SegmentExtent> segment, image_.segment(gib));
  if (!segment) return view;
  chunks_.set_segment(gib, segment->file_offset);
  for (uint64_t i = 0; i < run.count; ++i) view.chunks.at(i).owned = segment->owning_chunks[i];
  return view;
}

// Decides, without touching anything, what of a GiB goes.
RegionImpl::Demotion RegionImpl::pick(const GibView& view, ChunkIndex from, uint64_t wanted) const {
  Demotion plan;
  const ChunkIndex end = chunks_.gib_run(pcow::gib_of(from)).end();
  ChunkIndex at = from;
  for (; at < end && plan.pages < wanted; ++at) {
    const ChunkView& chunk = view.chunks.at(pcow::chunk_in_segment(at));
    if (chunk.dirty || chunk.resident == 0) continue;
    const bool hole = chunks_.state(at) == ChunkState::kHole;
    if (hole && chunk.owned) {
      auto& runs = plan.conversions;
      if (!runs.empty() && runs.back().end() == at) {
        ++runs.back().count;
      } else {
        runs.push_back({at, 1});
      }
      plan.pages += chunk.resident;
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

// Maps a run of committed holes from the file if the budget allows, else the whole GiB, or makes
// room in other GiBs, whose pages it adds to `dropped`.
pcow::Result<RegionImpl::Conversion> RegionImpl::convert(const GibView& view, ChunkRun run,
                                                         uint64_t& dropped) {
  const GibIndex gib = pcow::gib_of(run.first);
  if (!chunks_.segment(gib)) return Conversion::kNone;
  if (chunks_.mappings_after(run) > options_.mapping_budget) {
    const ChunkRun whole = chunks_.gib_run(gib);
    if (!view.dirty && chunks_.mappings_after(whole) <= options_.mapping_budget) {
      PCOW_TRY(map_cached(whole));
      return Conversion::kWholeGib;
    }
    PCOW_TRY_ASSIGN(const bool fits, make_room(run, dropped));
    if (!fits) return Conversion::kNone;
  }
  PCOW_TRY(map_cached(run));
  return Conversion::kRun;
}

// Tries to bring mappings_after(run) within the budget: first by asking the kernel what is really
// used, then by collapsing the most fragmented GiBs.
pcow::Result<bool> RegionImpl::make_room(ChunkRun run, uint64_t& dropped) {
  const uint64_t budget = options_.mapping_budget;
  const auto fits = [&] { return chunks_.mappings_after(run) <= budget; };
  if (chunks_.slack() > budget / 64) {
    PCOW_TRY(resync_mappings());
    if (fits()) return true;
  }
  const GibIndex own = pcow::gib_of(run.first);
  std::vector<bool> tried(chunks_.gibs());
  tried[own.value] = true;  // its view is in use, and convert() has tried it
  while (!fits()) {
    std::optional<GibIndex> best;
    uint64_t most = 0;
    for (uint64_t gib = 0; gib < chunks_.gibs(); ++gib) {
      if (tried[gib] || !chunks_.segment(GibIndex(gib))) continue;
      const uint64_t saves = chunks_.inner_boundaries(GibIndex(gib));
      if (saves > most) {
        most = saves;
        best = GibIndex(gib);
      }
    }
    if (!best) return false;
    tried[best->value] = true;
    PCOW_TRY_ASSIGN(const GibView view, view_gib(*best));
    if (view.dirty) continue;
    PCOW_TRY(map_cached(chunks_.gib_run(*best)));
    dropped += view.resident;
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
