// SPDX-License-Identifier: BSD-3-Clause
//
// Memory that a guest gives up: it reads as zeros at once, its DRAM goes back at once where it can,
// and the image follows with the next commit.
//
//   how a page is mapped                          what happens to it
//   anonymous memory (its chunk is a hole)        it is dropped
//   a window, and all of the chunk is given up    the chunk is mapped anew, as a hole
//   a window in which there is nothing            its copy is dropped: the window shows zeros
//   a window, otherwise; or it is under pin()     zeros are stored: a copy in DRAM, which goes when
//                                                 the image shows zeros, too (`zero_copies_`)
//
// This is the one change of mappings while others store. Why no store is lost by it:
//   D1  It changes nothing but the pages that are given up. What somebody stores to these meanwhile
//       may be lost, as with madvise(2); afterwards it is not.
//   D2  A page under pin() is not dropped, and nobody pins meanwhile: a device goes on storing to
//       the page that memory shows. (What was released by now holds nothing that is to be kept.)
//   D3  No demotion that was planned touches these pages: they are noted as stored to
//       (`stored_since_plan_`; `discarded_since_plan_` tells a policy that nobody did store to
//       them).
// What the image has of them is old until it is told. `discarded_` has the pages that are zero
// though no dirty page says so:
//   D4  A page is in it from before memory changes until the image took zeros of it, or a collect
//       found a store that came later. So its content is in memory, and dirty, or it is zero, and
//       remembered.
//   D5  Nothing shows what the image has of a page in it: no plan of an epoch does
//       (unstored_pages()), and a volatile commit writes all of it before it demotes.
// With epochs zeros go into the log like everything else, so E4 (epoch.cc) goes for them as well: a
// crash leaves the last epoch. A volatile region tells the image as soon as there is something to
// be had, because nobody may ever commit; a crash leaves old or zero.
#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "pcow/base/zero.h"
#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::PageIndex;
using pcow::PageMap;
using Kind = pcow::GibLayout::Kind;

namespace {

constexpr size_t kZerosPerCall = 4096;
// What a volatile region has to gain before it tells the image in between.
constexpr uint64_t kWorthWriting = kPagesPerChunk;
// Of log that a page's record takes, a window's zeros take so much.
constexpr uint64_t kWindowsPerPageOfLog = 32;

alignas(64) constexpr std::array<std::byte, kPageSize> kZeros{};

GibIndex gib_of(PageIndex page) { return pcow::gib_of(pcow::chunk_of(page)); }

PageMap pages_in(ChunkIndex chunk, PageRun run) {
  PageMap pages;
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    const PageIndex page = pcow::first_page(chunk) + i;
    pages[i] = page >= run.first && page < run.first + run.count;
  }
  return pages;
}

PageMap pinned_in(ChunkIndex chunk, const PageSet& pinned) {
  PageMap pages;
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    pages[i] = pinned.contains(pcow::first_page(chunk) + i);
  }
  return pages;
}

void add_chunk(std::vector<ChunkRun>& runs, ChunkIndex chunk) {
  if (!runs.empty() && runs.back().end() == chunk) {
    ++runs.back().count;
  } else {
    runs.push_back({chunk, 1});
  }
}

// Adds the set pages of a chunk as runs.
void add_runs(std::vector<PageRun>& runs, ChunkIndex chunk, const PageMap& pages) {
  const PageIndex first = pcow::first_page(chunk);
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    if (pages[i]) add_page(runs, first + i);
  }
}

std::vector<pcow::PageWrite> zeros_of(const std::vector<PageIndex>& pages) {
  std::vector<pcow::PageWrite> writes;
  writes.reserve(pages.size());
  for (const PageIndex page : pages) writes.push_back({page, kZeros.data()});
  return writes;
}

uint64_t windows_of(const std::vector<PageIndex>& pages) {
  uint64_t windows = 0;
  for (size_t i = 0; i < pages.size(); ++i) {
    if (i == 0 || pcow::chunk_of(pages[i]) != pcow::chunk_of(pages[i - 1])) ++windows;
  }
  return windows;
}

}  // namespace

pcow::Result<void> RegionImpl::discard(uint64_t offset, uint64_t length) {
  if (length == 0 || offset % kPageSize != 0 || length % kPageSize != 0 || offset > size() ||
      length > size() - offset) {
    return pcow::make_error(pcow::Code::kInvalid, "cannot discard " + std::to_string(length) +
                                                      " bytes at " + std::to_string(offset) +
                                                      ": whole pages of 4096 bytes are needed, "
                                                      "inside the region of " +
                                                      std::to_string(size()));
  }
  return memory_checked("out of memory while discarding guest memory; try again", [&] {
    return discard_pages({PageIndex(offset / kPageSize), length / kPageSize});
  });
}

pcow::Result<void> RegionImpl::discard_pages(PageRun run) {
  const GibIndex end = gib_of(run.first + (run.count - 1)) + 1;
  PCOW_TRY(resync_before_planning());
  PCOW_TRY_ASSIGN(const Discard plan, plan_discard(run));
  // Before anything changes: nothing may fail between that and remembering it.
  const auto sets = {&discarded_, &zero_copies_, &stored_since_plan_, &discarded_since_plan_};
  for (GibIndex gib = gib_of(run.first); gib < end; ++gib) {
    for (PageSet* set : sets) set->reserve(gib);
  }
  if (options_.persistence == Persistence::kEpoch)
    discarded_since_plan_.insert(run.first, run.count);
  pcow::Result<void> result = pins_.while_held(
      run, [&](const PageSet& pinned) { return carry_out(without_pinned(plan, pinned)); });
  for (GibIndex gib = gib_of(run.first); gib < end; ++gib) {
    for (PageSet* set : sets) set->trim(gib);
  }
  PCOW_TRY(std::move(result));
  // What fails here the next commit does, which says why it cannot.
  if (options_.persistence == Persistence::kVolatile && discarded_.size() >= kWorthWriting) {
    (void)write_discarded();
  }
  return {};
}

// Changes nothing.
pcow::Result<RegionImpl::Discard> RegionImpl::plan_discard(PageRun run) const {
  Discard plan;
  const PageIndex end = run.first + run.count;
  for (ChunkIndex chunk = pcow::chunk_of(run.first); pcow::first_page(chunk) < end; ++chunk) {
    const PageMap pages = pages_in(chunk, run);
    if (chunks_.state(chunk) == ChunkState::kHole) {
      add_runs(plan.drops, chunk, pages);
    } else if (pages.all()) {
      add_chunk(plan.holes, chunk);
    } else {
      PCOW_TRY_ASSIGN(const PageMap empty, empty_pages(chunk));
      add_runs(plan.drops, chunk, pages & empty);
      add_runs(plan.zeros, chunk, pages & ~empty);
    }
  }
  return plan;
}

// Pages under pin() get zeros, and their chunks keep their mappings. Changes nothing.
RegionImpl::Discard RegionImpl::without_pinned(const Discard& plan, const PageSet& pinned) {
  if (pinned.empty()) return plan;
  Discard allowed;
  const auto split = [&](const PageRun& run, std::vector<PageRun>& others) {
    const PageIndex end = run.first + run.count;
    for (ChunkIndex chunk = pcow::chunk_of(run.first); pcow::first_page(chunk) < end; ++chunk) {
      const PageMap pages = pages_in(chunk, run);
      const PageMap kept = pages & pinned_in(chunk, pinned);
      add_runs(allowed.pinned, chunk, kept);
      add_runs(others, chunk, pages & ~kept);
    }
  };
  for (const PageRun& run : plan.drops) split(run, allowed.drops);
  for (const PageRun& run : plan.zeros) split(run, allowed.zeros);
  for (const ChunkRun& run : plan.holes) {
    for (ChunkIndex chunk = run.first; chunk < run.end(); ++chunk) {
      if (pinned_in(chunk, pinned).none()) {
        add_chunk(allowed.holes, chunk);
      } else {
        split({pcow::first_page(chunk), kPagesPerChunk}, allowed.zeros);
      }
    }
  }
  return allowed;
}

// The pages of a cached chunk of which the image has nothing, and which its mapping shows so.
pcow::Result<PageMap> RegionImpl::empty_pages(ChunkIndex chunk) const {
  PageMap empty;
  PCOW_TRY_ASSIGN(const pcow::GibLayout layout, image_.layout(pcow::gib_of(chunk)));
  const pcow::GibLayout::Chunk& there = layout.chunks.at(pcow::chunk_in_segment(chunk));
  if (there.kind != Kind::kWindow || there.window != chunks_.place(chunk)) return empty;
  empty.set();
  const uint64_t start = chunk.value * kChunkSize;
  PCOW_TRY(image_.map(start, kChunkSize, [&](const pcow::MapExtent& extent) {
    for (uint64_t at = extent.start; extent.data && at < extent.start + extent.length;
         at += kPageSize) {
      empty.reset((at - start) / kPageSize);
    }
  }));
  return empty;
}

// Takes no memory. REQUIRES: the sets have room for all of it.
pcow::Result<void> RegionImpl::carry_out(const Discard& plan) {
  pcow::Result<void> result;
  for (const ChunkRun& run : plan.holes) {
    if (auto mapped = map_holes(run); !mapped) result = std::move(mapped);
  }
  for (const PageRun& run : plan.drops) {
    note_discarded(run);
    const AddressRange range{space_.at(run.first.value * kPageSize), run.count * kPageSize};
    if (!drop_copies(std::span(&range, 1))) store_zeros(run);
  }
  for (const PageRun& run : plan.zeros) {
    store_zeros(run);
    zero_copies_.insert(run.first, run.count);
  }
  for (const PageRun& run : plan.pinned) store_zeros(run);
  return result;
}

void RegionImpl::note_discarded(PageRun run) {
  discarded_.insert(run.first, run.count);
  pending_.erase(run.first, run.count);
  if (options_.persistence == Persistence::kEpoch) {
    stored_since_plan_.insert(run.first, run.count);
  }
}

// Of pages that were collected: the zeros that were stored to discard a page are no use of it.
// REQUIRES: room for them, if there are such zeros.
void RegionImpl::tell_discards_apart(PageRun run) {
  if (zero_copies_.empty() && discarded_since_plan_.empty()) return;
  for (PageIndex page = run.first; page < run.end(); ++page) {
    const bool zeros = zero_copies_.contains(page);
    if (!zeros && !discarded_since_plan_.contains(page)) continue;
    if (!pcow::is_zero_page(space_.at(page.value * kPageSize))) {
      discarded_since_plan_.erase(page);
    } else if (zeros) {
      discarded_since_plan_.insert(page, 1);
    }
  }
}

// Chunks that are given up become holes. Where the budget has no room they keep their mapping, and
// get zeros. Errors: those of the attributes, which the next commit or barrier gives them again.
pcow::Result<void> RegionImpl::map_holes(ChunkRun run) {
  const PageRun pages{pcow::first_page(run.first), run.count * kPagesPerChunk};
  const uint64_t offset = run.first.value * kChunkSize;
  note_discarded(pages);
  if (chunks_.mappings_if_holes(run) > options_.mapping_budget ||
      !space_.map_anonymous(offset, run.count * kChunkSize)) {
    store_zeros(pages);
    zero_copies_.insert(pages.first, pages.count);
    return {};
  }
  chunks_.set_holes(run);
  return give_attributes(run, kernel::HugePages::kNever);
}

// A page that has zeros already stays as it is, if that takes no look at the image.
void RegionImpl::store_zeros(PageRun run) {
  for (PageIndex page = run.first; page < run.first + run.count; ++page) {
    std::byte* const at = space_.at(page.value * kPageSize);
    if (zero_copies_.contains(page) && pcow::is_zero_page(at)) continue;
    std::memset(at, 0, kPageSize);
  }
}

// What was stored to since is written as it is. REQUIRES: it was collected.
void RegionImpl::forget_stored_discards() {
  discarded_.for_each([&](PageIndex page) {
    if (pending_.contains(page) || candidates_.contains(page)) discarded_.erase(page, 1);
  });
}

// To a volatile image.
pcow::Result<void> RegionImpl::write_discarded() {
  while (!discarded_.empty()) {
    const std::vector<PageIndex> pages = discarded_.lowest(kZerosPerCall);
    PCOW_TRY(image_.write_pages(zeros_of(pages)));
    for (const PageIndex page : pages) discarded_.erase(page, 1);
  }
  return {};
}

// As log_pending().
pcow::Result<bool> RegionImpl::log_discarded(uint64_t room_kept, uint64_t& logged_bytes) {
  while (!discarded_.empty()) {
    const std::vector<PageIndex> pages = discarded_.lowest(kZerosPerCall);
    const uint64_t wanted = windows_of(pages) / kWindowsPerPageOfLog + 1;
    if (room_kept > 0 && image_.log_state().room_pages < wanted + room_kept) return false;
    for (const PageIndex page : pages) in_epoch_.reserve(gib_of(page));
    epoch_open_ = true;
    PCOW_TRY_ASSIGN(const pcow::LogReport logged, image_.log_pages(zeros_of(pages)));
    logged_bytes += logged.logged_bytes;
    for (const PageIndex page : pages) {
      discarded_.erase(page, 1);
      in_epoch_.insert(page, 1);
    }
  }
  return true;
}

// Copies of zeros that are clean, of which the image shows zeros by itself. What holds something
// again is none any more.
pcow::Result<std::vector<PageIndex>> RegionImpl::spare_zero_copies() {
  std::vector<PageIndex> spare;
  std::vector<GibIndex> gibs;
  zero_copies_.for_each([&](PageIndex page) {
    if (gibs.empty() || gibs.back() != gib_of(page)) gibs.push_back(gib_of(page));
  });
  for (const GibIndex gib : gibs) {
    PCOW_TRY_ASSIGN(GibView view, view_gib(gib));
    PCOW_TRY(place_chunks(gib, view));
    const ChunkRun run = chunks_.gib_run(gib);
    for (ChunkIndex chunk = run.first; chunk < run.end(); ++chunk) {
      const ChunkView& here = view.chunks.at(pcow::chunk_in_segment(chunk));
      if (here.run_count == 0 || !shows_image(chunk, here)) continue;
      PCOW_TRY_ASSIGN(const PageMap unstored, unstored_pages(chunk));
      for (uint32_t i = 0; i < here.run_count; ++i) {
        const AddressRange& copies = view.runs[here.first_run + i];
        const PageIndex first = page_at(copies.start);
        for (PageIndex page = first; page < first + copies.length / kPageSize; ++page) {
          if (!zero_copies_.contains(page) || unstored[pcow::page_in_chunk(page)]) continue;
          if (pcow::is_zero_page(space_.at(page.value * kPageSize))) {
            spare.push_back(page);
          } else {
            zero_copies_.erase(page, 1);
          }
        }
      }
    }
    zero_copies_.trim(gib);
  }
  return spare;
}

// REQUIRES: as demote(). Returns how many.
pcow::Result<uint64_t> RegionImpl::drop_zero_copies() {
  PCOW_TRY_ASSIGN(const std::vector<PageIndex> spare, spare_zero_copies());
  std::vector<AddressRange> drops;
  drops.reserve(spare.size());
  for (const PageIndex page : spare) {
    std::byte* const start = space_.at(page.value * kPageSize);
    if (!drops.empty() && drops.back().start + drops.back().length == start) {
      drops.back().length += kPageSize;
    } else {
      drops.push_back({start, kPageSize});
    }
  }
  PCOW_TRY(drop_copies(drops));
  for (const PageIndex page : spare) zero_copies_.erase(page, 1);
  return spare.size();
}

}  // namespace tiering
