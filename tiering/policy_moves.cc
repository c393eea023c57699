// SPDX-License-Identifier: BSD-3-Clause
//
// What a policy sees of a region, and the moves that it wants.
//
// Demotion is that of epoch_demotion.cc, of chosen pages: the same plan, applied at the same moment
// by the same rule.
//
// Watching reads: pages of the image that are mapped show no reads, so some are unmapped at the
// barrier, by the plan as well. Why no store is lost: a page that the plan names was the image's
// own, which nobody can store to. Who stores gets a copy, which is dirty, so that a collect between
// plan and barrier finds it and the page stays. Who stores behind the page table pinned the page
// before, and what is pinned stays, too.
//
// Promotion makes a private copy of what the mapping shows beneath, which is what the image has (I1
// of region_impl.h; S1 of snapshots.cc where the mapping is older than the image's window). That is
// all that the guest's own first store does, before the store itself: the kernel does it, page by
// page, and no store gets lost between its look at the page and the copy. So it is safe while the
// guest runs, and it changes no mapping. The copy is dirty and not armed: I2 says nothing of it.
// The next collect arms it, and compares it with the image: what is the same need not be logged,
// which would store it anew where a snapshot, or the base, has it. A page that became a copy after
// a demotion was planned was stored to since the plan, as far as that knows.
//
// What is discarded (discard.cc) is not brought back: until the image was told, promotion leaves it
// alone, and a policy forgets what it knows of it (for_each_discarded()).
#include <algorithm>
#include <cstring>
#include <string>

#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::Code;
using pcow::GibIndex;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::make_error;
using pcow::PageIndex;
using pcow::PageMap;
using Kind = pcow::GibLayout::Kind;

namespace {

constexpr const char* kNoMemory = "out of memory while looking at, or moving, guest pages";

constexpr uint64_t kPagesPerCompare = 64;

// Calls fn(chunk, page in chunk) for the members of a set that lie in `chunks`, which are
// ascending.
template <typename Fn>
void for_each_in(const PageSet& pages, std::vector<ChunkResidency>& chunks, const Fn& fn) {
  auto at = chunks.begin();
  pages.for_each([&](PageIndex page) {
    const ChunkIndex chunk = pcow::chunk_of(page);
    while (at != chunks.end() && at->chunk < chunk) ++at;
    if (at != chunks.end() && at->chunk == chunk) fn(*at, pcow::page_in_chunk(page));
  });
}

// Calls sink(run) for the members of a set that are `wanted`.
template <typename Wanted>
void for_each_run(const PageSet& pages, const PageSink& sink, const Wanted& wanted) {
  PageRun run;
  pages.for_each([&](PageIndex page) {
    if (!wanted(page)) return;
    if (run.count > 0 && run.end() == page) {
      ++run.count;
      return;
    }
    if (run.count > 0) sink(run);
    run = {page, 1};
  });
  if (run.count > 0) sink(run);
}

// Adds a run behind the others, or to the last one if they are alike.
void add_run(std::vector<PlacedRun>& runs, const PlacedRun& next) {
  if (next.run.count == 0) return;
  if (!runs.empty()) {
    PlacedRun& last = runs.back();
    const bool alike = last.run.end() == next.run.first && last.place == next.place &&
                       last.dirty == next.dirty && last.pinned == next.pinned;
    if (alike) {
      last.run.count += next.run.count;
      return;
    }
  }
  runs.push_back(next);
}

}  // namespace

pcow::Result<PageRun> RegionImpl::inside(PageRun run) const {
  const uint64_t pages = size() / kPageSize;
  if (run.first.value <= pages && run.count <= pages - run.first.value) return run;
  return make_error(Code::kInvalid, "there are no " + std::to_string(run.count) +
                                        " pages from page " + std::to_string(run.first.value) +
                                        " on: the region has " + std::to_string(pages));
}

// What is dirty although the page table does not say so: it was armed, and has not come to its
// place yet.
pcow::Result<void> RegionImpl::mark_unstored(std::vector<ChunkResidency>& chunks) const {
  for (const PageSet* set : {&pending_, &candidates_, &discarded_}) {
    for_each_in(*set, chunks, [](ChunkResidency& chunk, uint64_t page) {
      if (chunk.resident[page]) chunk.dirty.set(page);
    });
  }
  const pcow::LogState log = image_.log_state();
  if (log.committed == 0 && log.under_way == 0) return {};
  for (ChunkResidency& chunk : chunks) {
    PCOW_TRY_ASSIGN(const PageMap logged, image_.logged_pages(chunk.chunk));
    chunk.dirty |= logged & chunk.resident;
  }
  return {};
}

// Adds what the page table says of the copies in a range.
pcow::Result<void> RegionImpl::look_at_copies(AddressRange range,
                                              std::vector<ChunkResidency>& chunks) const {
  return tracker_->inspect(range, [&](AddressRange run, PageState state) {
    if (!state.resident) return;
    const PageIndex first = page_at(run.start);
    for (PageIndex page = first; page < first + run.length / kPageSize; ++page) {
      const ChunkIndex chunk = pcow::chunk_of(page);
      if (chunks.empty() || chunks.back().chunk != chunk) {
        chunks.emplace_back().chunk = chunk;
        chunks.back().hole = chunks_.state(chunk) == ChunkState::kHole;
      }
      chunks.back().resident.set(pcow::page_in_chunk(page));
      if (state.dirty) chunks.back().dirty.set(pcow::page_in_chunk(page));
      chunks.back().huge |= state.huge;
    }
  });
}

// Adds what the region itself knows of them.
pcow::Result<void> RegionImpl::mark_bound(std::vector<ChunkResidency>& chunks) {
  PCOW_TRY(mark_unstored(chunks));
  pins_.while_held([&](const PageSet& pinned) {
    for_each_in(pinned, chunks, [](ChunkResidency& chunk, uint64_t page) {
      if (chunk.resident[page]) chunk.pinned.set(page);
    });
  });
  return {};
}

pcow::Result<std::vector<ChunkResidency>> RegionImpl::residency(PageRun range) {
  PCOW_TRY(inside(range));
  return memory_checked(kNoMemory, [&]() -> pcow::Result<std::vector<ChunkResidency>> {
    std::vector<ChunkResidency> chunks;
    PCOW_TRY(look_at_copies({space_.at(range.first.value * kPageSize), range.count * kPageSize},
                            chunks));
    PCOW_TRY(mark_bound(chunks));
    return chunks;
  });
}

pcow::Result<std::span<const ChunkResidency>> RegionImpl::refresh_residency() {
  return residency_.refresh([&](ChunkRun run, std::vector<ChunkResidency>& found) {
    return look_at_copies(range_of(run), found);
  });
}

pcow::Result<std::vector<ChunkResidency>> RegionImpl::collected_residency() {
  return memory_checked(kNoMemory, [&]() -> pcow::Result<std::vector<ChunkResidency>> {
    PCOW_TRY_ASSIGN(const std::span<const ChunkResidency> known, refresh_residency());
    std::vector<ChunkResidency> chunks(known.begin(), known.end());
    PCOW_TRY(mark_bound(chunks));
    return chunks;
  });
}

// Pages without a copy. What was discarded is zero, whatever the image still has of it.
void RegionImpl::add_beneath(std::vector<PlacedRun>& runs, PageRun run, bool data) const {
  const PagePlace place = data ? PagePlace::kImage : PagePlace::kHole;
  if (!data || discarded_.empty()) return add_run(runs, {.run = run, .place = place});
  for (PageIndex page = run.first; page < run.end(); ++page) {
    add_run(runs,
            {.run = {page, 1}, .place = discarded_.contains(page) ? PagePlace::kHole : place});
  }
}

pcow::Result<std::vector<PlacedRun>> RegionImpl::places(PageRun range) {
  PCOW_TRY_ASSIGN(const std::vector<ChunkResidency> copies, residency(range));
  return memory_checked(kNoMemory, [&]() -> pcow::Result<std::vector<PlacedRun>> {
    std::vector<PlacedRun> runs;
    auto copy = copies.begin();
    const auto add_extent = [&](const pcow::MapExtent& extent) {
      const PageIndex end((extent.start + extent.length) / kPageSize);
      for (PageIndex page(extent.start / kPageSize); page < end;) {
        const ChunkIndex chunk = pcow::chunk_of(page);
        while (copy != copies.end() && copy->chunk < chunk) ++copy;
        if (copy == copies.end() || copy->chunk != chunk) {
          const PageIndex next =
              copy == copies.end() ? end : std::min(end, pcow::first_page(copy->chunk));
          add_beneath(runs, {page, next - page}, extent.data);
          page = next;
          continue;
        }
        const uint64_t index = pcow::page_in_chunk(page);
        if (copy->resident[index]) {
          add_run(runs, {.run = {page, 1},
                         .place = PagePlace::kDram,
                         .dirty = copy->dirty[index],
                         .pinned = copy->pinned[index]});
        } else {
          add_beneath(runs, {page, 1}, extent.data);
        }
        ++page;
      }
    };
    PCOW_TRY(image_.map(range.first.value * kPageSize, range.count * kPageSize, add_extent));
    return runs;
  });
}

void RegionImpl::for_each_collected(const PageSink& sink) const {
  for_each_run(stored_since_plan_, sink,
               [&](PageIndex page) { return !discarded_since_plan_.contains(page); });
}

void RegionImpl::for_each_discarded(const PageSink& sink) const {
  for_each_run(discarded_since_plan_, sink, [](PageIndex) { return true; });
}

std::vector<ChunkIndex> RegionImpl::cached_chunks(ChunkIndex from, size_t max) const {
  std::vector<ChunkIndex> found;
  for (ChunkIndex at = from; at.value < chunks_.chunks() && found.size() < max;) {
    const ChunkRun run = chunks_.run_from(at);
    if (chunks_.state(at) == ChunkState::kHole) {
      at = run.end();
      continue;
    }
    for (; at < run.end() && found.size() < max; ++at) found.push_back(at);
  }
  return found;
}

pcow::Result<ReadSampler*> RegionImpl::sampler() {
  if (!sampler_) {
    PCOW_TRY_ASSIGN(sampler_, ReadSampler::create());
  }
  return &*sampler_;
}

pcow::Result<void> RegionImpl::mapped_pages(ChunkIndex chunk, const PageSink& sink) {
  PCOW_TRY(inside({pcow::first_page(chunk), kPagesPerChunk}));
  // Of a hole it would be the zero page.
  if (chunks_.state(chunk) == ChunkState::kHole) return {};
  PCOW_TRY_ASSIGN(const ReadSampler* reads, sampler());
  return memory_checked(kNoMemory, [&] {
    return reads->collect(range_of({chunk, 1}), [&](AddressRange run) {
      sink({page_at(run.start), run.length / kPageSize});
    });
  });
}

std::vector<RegionImpl::ChosenPages> RegionImpl::by_chunk(std::span<const PageRun> runs) {
  std::vector<ChosenPages> chosen;
  for (const PageRun& run : runs) {
    for (PageIndex page = run.first; page < run.end(); ++page) {
      const ChunkIndex chunk = pcow::chunk_of(page);
      if (chosen.empty() || chosen.back().chunk != chunk) chosen.push_back({chunk, {}});
      chosen.back().pages.set(pcow::page_in_chunk(page));
    }
  }
  return chosen;
}

pcow::Result<PreparedMoves> RegionImpl::prepare_moves(const Moves& moves) {
  PCOW_TRY(check_epoch(false));
  begin_plan();
  const auto plan = [&]() -> pcow::Result<PreparedMoves> {
    PreparedMoves prepared;
    uint64_t stored_anew = 0;
    PCOW_TRY(plan_zero_copies());
    PCOW_TRY(resync_before_planning());
    const std::vector<ChosenPages> chosen = by_chunk(moves.demotions);
    const std::span<const ChosenPages> all(chosen);
    for (size_t at = 0; at < all.size();) {
      size_t end = at + 1;
      while (end < all.size() && pcow::gib_of(all[end].chunk) == pcow::gib_of(all[at].chunk)) ++end;
      PCOW_TRY(plan_chosen(all.subspan(at, end - at), prepared, stored_anew));
      at = end;
    }
    PCOW_TRY(plan_unmapping(moves, prepared));
    PCOW_TRY(plan_huge(moves.huge, prepared));
    return prepared;
  };
  pcow::Result<PreparedMoves> prepared = memory_checked(kNoMemory, plan);
  if (!prepared) plan_ = {};
  return prepared;
}

// Copies together what the layers share of the chosen chunks, which lie in one GiB; no more chunks
// than the barrier maps for some of their copies, and none with more copies that stay.
pcow::Result<void> RegionImpl::fold_chosen(std::span<const ChosenPages> chosen, GibView& view) {
  if (epoch_open_) return {};
  uint64_t left = kPartialMax - plan_.partial.size();
  bool folded = false;
  for (const ChosenPages& choice : chosen) {
    const ChunkView& chunk = view.chunks.at(pcow::chunk_in_segment(choice.chunk));
    if (chunk.resident == 0 || chunk.dirty || chunk.place.kind != Kind::kMixed) continue;
    if (left == 0) break;
    if (chunk.resident > 2 * choice.pages.count()) continue;
    PCOW_TRY_ASSIGN(const bool done, fold({choice.chunk, 1}));
    if (!done) break;
    folded = true;
    --left;
  }
  if (!folded) return {};
  return place_chunks(pcow::gib_of(chosen.front().chunk), view);
}

// Plans to map a chunk from its window, so that these pages go; false: the other copies are more,
// or more than one barrier should store anew.
bool RegionImpl::plan_partly(const ChosenPages& going, const PageMap& unstored,
                             const ChunkView& chunk, uint64_t& stored_anew) {
  const uint64_t staying = chunk.resident - going.pages.count();
  if (chunk.place.kind != Kind::kWindow || staying > going.pages.count() ||
      stored_anew + staying > kStoredAnewMax || plan_.partial.size() == kPartialMax ||
      !fits_in_budget(going.chunk, chunk.place.window)) {
    return false;
  }
  stored_anew += staying;
  plan_.partial.push_back({going, unstored, chunk.place.window});
  plan_.pages += going.pages.count();
  return true;
}

// Plans what may go of the chosen pages of one GiB.
pcow::Result<void> RegionImpl::plan_chosen(std::span<const ChosenPages> chosen,
                                           PreparedMoves& prepared, uint64_t& stored_anew) {
  const GibIndex gib = pcow::gib_of(chosen.front().chunk);
  PCOW_TRY_ASSIGN(GibView view, view_gib(gib));
  PCOW_TRY(place_chunks(gib, view));
  PCOW_TRY(fold_chosen(chosen, view));
  for (const ChosenPages& choice : chosen) {
    const ChunkView& chunk = view.chunks.at(pcow::chunk_in_segment(choice.chunk));
    const PageIndex first = pcow::first_page(choice.chunk);
    PCOW_TRY_ASSIGN(const PageMap unstored, unstored_pages(choice.chunk));
    PageMap clean;
    for (uint32_t i = 0; i < chunk.run_count; ++i) {
      const AddressRange& run = view.runs[chunk.first_run + i];
      const uint64_t start = page_at(run.start) - first;
      for (uint64_t page = 0; page < run.length / kPageSize; ++page) clean.set(start + page);
    }
    const PageMap going = choice.pages & clean & ~unstored;
    prepared.unstored_pages += (choice.pages & ~going).count();
    if (going.none()) continue;
    const bool beneath = chunk.place.kind != Kind::kMixed && shows_image(choice.chunk, chunk);
    if (!beneath && !plan_partly({choice.chunk, going}, unstored, chunk, stored_anew)) {
      prepared.unmovable_pages += going.count();
      continue;
    }
    for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
      if (!going[i]) continue;
      add_page(prepared.demotions, first + i);
      // What is left of a discard is planned already.
      if (beneath && !zero_copies_.contains(first + i)) plan_.drop(first + i);
    }
  }
  return {};
}

pcow::Result<void> RegionImpl::plan_unmapping(const Moves& moves, PreparedMoves& prepared) {
  uint64_t left = moves.watched_pages_max;
  for (const ChunkIndex chunk : moves.watched) {
    std::vector<PageRun> mapped;
    uint64_t pages = 0;
    PCOW_TRY(mapped_pages(chunk, [&](PageRun run) {
      mapped.push_back(run);
      pages += run.count;
    }));
    if (pages > left) break;
    left -= pages;
    plan_.unmapped.insert(plan_.unmapped.end(), mapped.begin(), mapped.end());
    prepared.watched.push_back({chunk, pages});
  }
  return {};
}

pcow::Result<uint64_t> RegionImpl::promote(PageRun run) {
  PCOW_TRY(inside(run));
  return memory_checked(kNoMemory, [&] { return copy_to_dram(run); });
}

pcow::Result<uint64_t> RegionImpl::copy_to_dram(PageRun run) {
  uint64_t pages = 0;
  for (PageIndex page = run.first; page < run.end();) {
    const ChunkIndex chunk = pcow::chunk_of(page);
    const PageIndex chunk_end = std::min(run.end(), pcow::first_page(chunk + 1));
    // A hole has nothing to copy: its pages would become zeros in DRAM.
    if (chunks_.state(chunk) != ChunkState::kCached) {
      page = chunk_end;
      continue;
    }
    PageIndex end = page;
    while (end < chunk_end && !discarded_.contains(end)) ++end;
    if (end == page) {
      ++page;
      continue;
    }
    if (options_.persistence == Persistence::kEpoch) {
      copied_.reserve(pcow::gib_of(chunk));
      copied_.insert(page, end - page);
    }
    residency_.invalidate({chunk, 1});
    PCOW_TRY(kernel::populate_for_writing(
        {space_.at(page.value * kPageSize), (end - page) * kPageSize}));
    pages += end - page;
    page = end;
  }
  return pages;
}

// Of what was just collected. A store that comes later makes the page dirty again, and what the log
// has of this epoch is shown by read(), and pending again if the epoch is. What cannot be read is
// logged. REQUIRES: after forget_stored_discards().
void RegionImpl::forget_unchanged_copies() {
  if (copied_.empty()) return;
  if (scratch_.size() < kPagesPerCompare * kPageSize) {
    scratch_.resize(kPagesPerCompare * kPageSize);
  }
  const auto compare = [&](PageRun run) {
    for (PageIndex first = run.first; first < run.end();) {
      const uint64_t count = std::min<uint64_t>(kPagesPerCompare, run.end() - first);
      const auto held = std::span(scratch_).first(count * kPageSize);
      const bool shown = image_.read(first.value * kPageSize, held).has_value();
      for (uint64_t i = 0; shown && i < count; ++i) {
        const std::byte* page = space_.at((first + i).value * kPageSize);
        if (std::memcmp(page, held.data() + i * kPageSize, kPageSize) == 0) {
          pending_.erase(first + i);
        }
      }
      first = first + count;
    }
  };
  for_each_run(copied_, compare, [&](PageIndex page) { return pending_.contains(page); });
  copied_.clear();
}

}  // namespace tiering
