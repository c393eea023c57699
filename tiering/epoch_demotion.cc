// SPDX-License-Identifier: BSD-3-Clause
//
// Demotion of a region with epochs: planned while the guest runs, applied at the barrier.
//
//   plan    of each GiB from the hand on, the private copies that are clean and not in the log: by
//           I2 they equal the image's page, and that lies at its place in the file
//   apply   all of these but what was stored to since (`stored_since_plan_`, which every collect
//           adds to, the one of the barrier too), and what is pinned
//
// Why no store is lost: a store that came before the plan's look at the page table made its page
// dirty, and the plan leaves that out. One that came later is found by a collect between plan and
// apply, at the latest by the barrier's, after which nobody stores. And a page that was logged
// since the plan was collected since, so what is dropped is still at its place.
//
//   what the mapping shows beneath the copies   what is planned
//   the image's pages (or zeros, as the image)  clean copies are dropped page by page
//   something else                              the chunk is mapped from its window, if all of it
//   is
//                                               clean and not in the log
//   pages of several layers                     the chunk is folded first, while no epoch is open
//
// Of a policy's choice a chunk may be mapped from its window although some of its copies stay: the
// barrier puts these aside, and stores them anew. That are all that were not chosen, or were stored
// to since, or have not come to their place: so what goes is what could go page by page. Nobody
// stores meanwhile, and a chunk with a pinned page is left alone, so what is stored anew is what
// was there. It is dirty, as any store makes it.
//
// What a policy chose is planned by policy_moves.cc, and applied here.
//
// What does not fit in the mapping budget stays in DRAM, unless all of its GiB can be mapped whole.
#include <algorithm>
#include <cstring>

#include "tiering/drop_check.h"
#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using Kind = pcow::GibLayout::Kind;

pcow::Result<uint64_t> RegionImpl::prepare_demotion(uint64_t pages_max) {
  PCOW_TRY(check_epoch(false));
  begin_plan();
  try {
    PCOW_TRY(plan_zero_copies());
    if (dram_size_ == 0) return plan_.pages;
    PCOW_TRY_ASSIGN(const uint64_t resident, count_resident());
    if (resident <= dram_size_) return plan_.pages;
    PCOW_TRY(resync_before_planning());
    const uint64_t excess = pcow::round_up(resident - dram_size_, kPageSize) / kPageSize;
    const uint64_t wanted = std::min(excess, pages_max);
    for (uint64_t travelled = 0; travelled < chunks_.chunks() && plan_.pages < wanted;) {
      const ChunkIndex from = hand_;
      PCOW_TRY(plan_gib(from, wanted));
      travelled += (hand_ > from ? hand_.value : chunks_.chunks()) - from.value;
    }
    return plan_.pages;
  } catch (const std::bad_alloc&) {
    plan_ = {};
    return pcow::make_error(pcow::Code::kNoMemory, "out of memory while planning demotion");
  }
}

// Before looking: what is stored from here on is in the next collect.
void RegionImpl::begin_plan() {
  plan_ = {};
  stored_since_plan_.clear();
  discarded_since_plan_.clear();
}

// Of whatever is left of discards, whether DRAM is short or not.
pcow::Result<void> RegionImpl::plan_zero_copies() {
  PCOW_TRY_ASSIGN(const std::vector<pcow::PageIndex> spare, spare_zero_copies());
  for (const pcow::PageIndex page : spare) plan_.drop(page);
  return {};
}

pcow::Result<void> RegionImpl::resync_before_planning() {
  const uint64_t budget = options_.mapping_budget;
  if (chunks_.mappings() <= budget / 2 || chunks_.slack() <= budget / 64) return {};
  return resync_mappings();
}

// The pages of a chunk whose copy is not what lies at their place in the image.
pcow::Result<pcow::PageMap> RegionImpl::unstored_pages(ChunkIndex chunk) const {
  PCOW_TRY_ASSIGN(pcow::PageMap pages, image_.logged_pages(chunk));
  const pcow::PageIndex first = pcow::first_page(chunk);
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    if (pending_.contains(first + i) || discarded_.contains(first + i)) pages.set(i);
  }
  return pages;
}

// Folds what is shared between the hand and the end of the GiB.
pcow::Result<void> RegionImpl::fold_for_plan(ChunkIndex from, GibView& view) {
  const GibIndex gib = pcow::gib_of(from);
  bool folded = false;
  for (ChunkIndex at = from; at < chunks_.gib_run(gib).end(); ++at) {
    const ChunkView& chunk = view.chunks.at(pcow::chunk_in_segment(at));
    if (chunk.resident == 0 || chunk.dirty || chunk.place.kind != Kind::kMixed) continue;
    PCOW_TRY_ASSIGN(const bool done, fold({at, 1}));
    if (!done) break;
    folded = true;
  }
  return folded ? place_chunks(gib, view) : pcow::Result<void>();
}

pcow::Result<void> RegionImpl::plan_gib(ChunkIndex from, uint64_t wanted) {
  const GibIndex gib = pcow::gib_of(from);
  const ChunkIndex end = chunks_.gib_run(gib).end();
  PCOW_TRY_ASSIGN(GibView view, view_gib(gib));
  ChunkIndex at = from;
  if (view.resident == 0) {
    at = end;
  } else {
    PCOW_TRY(place_chunks(gib, view));
    if (!epoch_open_) PCOW_TRY(fold_for_plan(from, view));
  }
  for (; at < end && plan_.pages < wanted; ++at) {
    const ChunkView& chunk = view.chunks.at(pcow::chunk_in_segment(at));
    if (chunk.resident == 0 || chunk.place.kind == Kind::kMixed) continue;
    PCOW_TRY_ASSIGN(const pcow::PageMap unstored, unstored_pages(at));
    if (shows_image(at, chunk)) {
      plan_drops(at, view, unstored, wanted);
      continue;
    }
    if (chunk.dirty || unstored.any()) continue;
    if (!fits_in_budget(at, chunk.place.window)) {
      PCOW_TRY(plan_whole_gib(gib, view));
      at = end;
      break;
    }
    plan_.conversions.push_back({{at, 1}, chunk.place.window, chunk.resident});
    plan_.pages += chunk.resident;
  }
  hand_ = at.value < chunks_.chunks() ? at : ChunkIndex(0);
  return {};
}

void RegionImpl::plan_drops(ChunkIndex chunk, const GibView& view, const pcow::PageMap& unstored,
                            uint64_t wanted) {
  const ChunkView& here = view.chunks.at(pcow::chunk_in_segment(chunk));
  for (uint32_t i = 0; i < here.run_count; ++i) {
    const AddressRange& run = view.runs[here.first_run + i];
    const pcow::PageIndex first = page_at(run.start);
    for (pcow::PageIndex page = first; page < first + run.length / kPageSize; ++page) {
      if (plan_.pages == wanted) return;
      // What is left of a discard is planned already.
      if (unstored[pcow::page_in_chunk(page)] || zero_copies_.contains(page)) continue;
      plan_.drop(page);
    }
  }
}

// Whether a chunk may be mapped after what is planned, each run of which takes two mappings more at
// most.
bool RegionImpl::fits_in_budget(ChunkIndex chunk, pcow::FilePlace window) const {
  uint64_t planned = 2 * plan_.partial.size();
  ChunkIndex next(0);
  for (const PlannedConversion& conversion : plan_.conversions) {
    if (conversion.run.first != next) planned += 2;
    next = conversion.run.end();
  }
  return chunks_.mappings_after({chunk, 1}, window) + planned <= options_.mapping_budget;
}

// A GiB that is all clean and in its segment, as one mapping for each part of that.
pcow::Result<void> RegionImpl::plan_whole_gib(GibIndex gib, const GibView& view) {
  const ChunkRun run = chunks_.gib_run(gib);
  if (view.dirty || !chunks_.has_segment(gib)) return {};
  if (chunks_.mappings_if_whole(gib) > options_.mapping_budget) return {};
  for (ChunkIndex chunk = run.first; chunk < run.end(); ++chunk) {
    PCOW_TRY_ASSIGN(const pcow::PageMap unstored, unstored_pages(chunk));
    if (unstored.any()) return {};
  }
  // Instead of what was planned in it.
  std::erase_if(plan_.conversions, [&](const PlannedConversion& planned) {
    if (pcow::gib_of(planned.run.first) != gib) return false;
    plan_.pages -= planned.pages;
    return true;
  });
  for (const ChunkMap::Part& part : chunks_.parts_of(gib)) {
    plan_.conversions.push_back({part.run, part.place, view.resident_in(part.run)});
  }
  plan_.pages += view.resident;
  return {};
}

bool RegionImpl::has_to_stay(pcow::PageIndex page, const PageSet& pinned) const {
  return was_stored_to(stored_since_plan_, page) || pinned.contains(page);
}

bool RegionImpl::has_to_stay(ChunkRun run, const PageSet& pinned) const {
  const pcow::PageIndex first = pcow::first_page(run.first);
  for (pcow::PageIndex page = first; page < first + run.count * kPagesPerChunk; ++page) {
    if (has_to_stay(page, pinned)) return true;
  }
  return false;
}

// Appends the pages of `runs` that need not stay; returns how many.
uint64_t RegionImpl::free_to_go(std::span<const PageRun> runs, const PageSet& pinned,
                                std::vector<AddressRange>& ranges) const {
  uint64_t pages = 0;
  for (const PageRun& run : runs) {
    for (pcow::PageIndex page = run.first; page < run.end(); ++page) {
      if (has_to_stay(page, pinned)) continue;
      std::byte* start = space_.at(page.value * kPageSize);
      if (!ranges.empty() && ranges.back().start + ranges.back().length == start) {
        ranges.back().length += kPageSize;
      } else {
        ranges.push_back({start, kPageSize});
      }
      ++pages;
    }
  }
  return pages;
}

// REQUIRES: nobody stores but to what is pinned; stored_since_plan_ has all that was stored to.
pcow::Result<void> RegionImpl::apply_demotion(BarrierReport& report) {
  DemotionPlan plan = std::exchange(plan_, {});
  if (plan.empty()) return {};
  auto applied =
      pins_.while_held([&](const PageSet& pinned) { return apply_plan(plan, pinned, report); });
  spent_.swap(plan.huge);
  return applied;
}

pcow::Result<void> RegionImpl::apply_plan(const DemotionPlan& plan, const PageSet& pinned,
                                          BarrierReport& report) {
  // Before any chunk is mapped from elsewhere. By the same argument as for copies: a page of the
  // image that was stored to since is a copy now, and stays.
  std::vector<AddressRange> unmapped;
  const uint64_t unmapped_pages = free_to_go(plan.unmapped, pinned, unmapped);
  PCOW_TRY(kernel::drop_pages(unmapped));
  report.unmapped_pages = unmapped_pages;
  std::vector<AddressRange> drops;
  const uint64_t dropped = free_to_go(plan.drops, pinned, drops);
  std::vector<WindowRun> runs;
  std::vector<uint64_t> pages;  // of each run
  for (const PlannedConversion& planned : plan.conversions) {
    if (has_to_stay(planned.run, pinned)) continue;
    if (planned.run.count == 1) {
      add_conversion(runs, planned.run.first, planned.place);
    } else {
      runs.push_back({planned.run, planned.place});
    }
    pages.resize(runs.size());
    pages.back() += planned.pages;
  }
  report.kept_pages = plan.pages;
  PCOW_TRY(drop_copies(drops));
  for (const AddressRange& gone : drops) {
    zero_copies_.erase(page_at(gone.start), gone.length / kPageSize);
  }
  report.demoted_pages = dropped;
  report.kept_pages -= dropped;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (chunks_.mappings_after(runs[i].run, runs[i].place) > options_.mapping_budget) continue;
    PCOW_TRY(map_cached(runs[i].run, runs[i].place));
    report.demoted_pages += pages[i];
    report.kept_pages -= pages[i];
  }
  uint64_t copies_left = kStoredAnewMax;
  for (const PartialConversion& planned : plan.partial) {
    PCOW_TRY_ASSIGN(const uint64_t gone, convert_partly(planned, pinned, copies_left));
    report.demoted_pages += gone;
    report.kept_pages -= gone;
  }
  PCOW_TRY(apply_huge(plan.huge, pinned, report));
  if (rearm_due_) PCOW_TRY(tracker_->rearm());
  rearm_due_ = false;
  return {};
}

// All copies of a chunk but what may go. Of one that was swapped out the page table may not tell;
// then the image has it at its place, unless it is among what was stored to since, or unstored. So
// has it what is no copy, unless that was discarded. What was unstored when this was planned may
// have come to another window by now, which no log tells of.
pcow::Result<pcow::PageMap> RegionImpl::copies_to_keep(const PartialConversion& planned) const {
  const ChosenPages& going = planned.going;
  const pcow::PageIndex first = pcow::first_page(going.chunk);
  PCOW_TRY_ASSIGN(pcow::PageMap kept, unstored_pages(going.chunk));
  kept |= planned.unstored;
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    if (was_stored_to(stored_since_plan_, first + i)) kept.set(i);
  }
  const auto note = [&](AddressRange run, PageState) {
    const pcow::PageIndex start = page_at(run.start);
    for (uint64_t i = 0; i < run.length / kPageSize; ++i) {
      const uint64_t index = start + i - first;
      if (!going.pages[index]) kept.set(index);
    }
  };
  PCOW_TRY(tracker_->inspect(range_of({going.chunk, 1}), note));
  return kept;
}

// Returns how many pages went.
pcow::Result<uint64_t> RegionImpl::convert_partly(const PartialConversion& planned,
                                                  const PageSet& pinned, uint64_t& copies_left) {
  const ChunkIndex chunk = planned.going.chunk;
  const pcow::PageIndex first = pcow::first_page(chunk);
  for (uint64_t i = 0; !pinned.empty() && i < kPagesPerChunk; ++i) {
    if (pinned.contains(first + i)) return uint64_t{0};
  }
  if (chunks_.mappings_after({chunk, 1}, planned.place) > options_.mapping_budget) {
    return uint64_t{0};
  }
  PCOW_TRY_ASSIGN(const pcow::PageMap kept, copies_to_keep(planned));
  const pcow::PageMap going = planned.going.pages & ~kept;
  if (going.none() || kept.count() > copies_left) return uint64_t{0};
  copies_left -= kept.count();
  PCOW_TRY(map_with_copies(planned, kept));
  return going.count();
}

pcow::Result<void> RegionImpl::map_with_copies(const PartialConversion& planned,
                                               const pcow::PageMap& kept) {
  scratch_.resize(pcow::kChunkSize);
  copied_.reserve(pcow::gib_of(planned.going.chunk));
  std::byte* start = range_of({planned.going.chunk, 1}).start;
  const auto copy_kept = [&](std::byte* to, const std::byte* from) {
    for (uint64_t at = 0; at < pcow::kChunkSize; at += kPageSize) {
      if (kept[at / kPageSize]) std::memcpy(to + at, from + at, kPageSize);
    }
  };
  copy_kept(scratch_.data(), start);
  pcow::Result<void> mapped = map_cached({planned.going.chunk, 1}, planned.place);
  // Whatever it says: where nothing was mapped they are stored to where they are.
  copy_kept(start, scratch_.data());
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    if (kept[i]) copied_.insert(pcow::first_page(planned.going.chunk) + i, 1);
  }
  return mapped;
}

}  // namespace tiering
