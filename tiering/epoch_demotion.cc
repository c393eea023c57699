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
// What does not fit in the mapping budget stays in DRAM, unless all of its GiB can be mapped whole.
#include <algorithm>

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
  plan_ = {};
  // Before looking: what is stored from here on is in the next collect.
  stored_since_plan_.clear();
  try {
    // Of whatever is left of discards, whether DRAM is short or not.
    PCOW_TRY_ASSIGN(const std::vector<pcow::PageIndex> spare, spare_zero_copies());
    for (const pcow::PageIndex page : spare) plan_.drop(page);
    if (options_.dram_size == 0) return plan_.pages;
    PCOW_TRY_ASSIGN(const uint64_t resident, count_resident());
    if (resident <= options_.dram_size) return plan_.pages;
    const uint64_t budget = options_.mapping_budget;
    if (chunks_.mappings() > budget / 2 && chunks_.slack() > budget / 64) {
      PCOW_TRY(resync_mappings());
    }
    const uint64_t excess = pcow::round_up(resident - options_.dram_size, kPageSize) / kPageSize;
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
  uint64_t planned = 0;
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

// REQUIRES: nobody stores but to what is pinned; stored_since_plan_ has all that was stored to.
pcow::Result<void> RegionImpl::apply_demotion(BarrierReport& report) {
  const DemotionPlan plan = std::exchange(plan_, {});
  if (plan.pages == 0) return {};
  return pins_.while_held([&](const PageSet& pinned) { return apply_plan(plan, pinned, report); });
}

pcow::Result<void> RegionImpl::apply_plan(const DemotionPlan& plan, const PageSet& pinned,
                                          BarrierReport& report) {
  std::vector<AddressRange> drops;
  uint64_t dropped = 0;
  for (const PageRun& run : plan.drops) {
    for (pcow::PageIndex page = run.first; page < run.first + run.count; ++page) {
      if (has_to_stay(page, pinned)) continue;
      std::byte* start = space_.at(page.value * kPageSize);
      if (!drops.empty() && drops.back().start + drops.back().length == start) {
        drops.back().length += kPageSize;
      } else {
        drops.push_back({start, kPageSize});
      }
      zero_copies_.erase(page);
      ++dropped;
    }
  }
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
  report.demoted_pages = dropped;
  report.kept_pages -= dropped;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (chunks_.mappings_after(runs[i].run, runs[i].place) > options_.mapping_budget) continue;
    PCOW_TRY(map_cached(runs[i].run, runs[i].place));
    report.demoted_pages += pages[i];
    report.kept_pages -= pages[i];
  }
  if (rearm_due_) PCOW_TRY(tracker_->rearm());
  rearm_due_ = false;
  return {};
}

}  // namespace tiering
