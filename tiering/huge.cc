// SPDX-License-Identifier: BSD-3-Clause
//
// Huge chunks: all of a chunk in one 2 MiB page of DRAM, which a TLB holds with one entry. (A
// private mapping of a file never has one: its copies are of 4 KiB.) Prepared while the guest runs,
// put in place at the barrier.
//
//   plan    the chunk's content is copied into a 2 MiB page elsewhere, a *stage*: its copies from
//           memory, the rest from the image
//   apply   what was stored to since is copied again; the chunk's copies are moved out of the way,
//           anonymous memory is mapped, and the stage's page is moved there, armed
//
// To the rest of the region such a chunk is a hole of the chunk map, all of which is copied:
// nothing is behind its mapping, and it goes back as any hole does, when the image has what it
// holds, by being mapped from its window (demotion.cc, epoch_demotion.cc).
//
// Why no store is lost:
//   H1  A store that came before the plan's copying is in the copy. One that came later, or tore
//       it, is found by a collect between plan and apply, at the latest by the barrier's, after
//       which nobody stores (E1 and E3 of epoch.cc). These pages are copied again, and a chunk that
//       has a pinned page is left alone.
//   H2  What has no copy in DRAM is in the image, at its place (I1 of region_impl.h), and stays as
//       it is there as long as nobody stores to it, which makes a copy. A swapped out copy that is
//       not dirty equals the image's page (I2); one that is dirty is found by the next collect.
//   H3  The pages may be armed at once: everything collected is logged by now (E4), so each equals
//       what the image shows, the log included (I2).
//   H4  Should the kernel fail half way, all of the chunk is stored anew, from the copies that were
//       moved out, and from what is mapped behind them there, which is what was mapped here. Such a
//       store makes them dirty, whatever is mapped here by then.
// What is discarded has marks of its own (discard.cc): a chunk that holds some of that is left
// alone.
//
// The first store to an armed 2 MiB page makes the kernel map it as 512 pages, to tell which one
// was stored to, and so it stays. So this is for chunks that are read; policy/huge.h chooses them.
#include <algorithm>
#include <cstring>

#include "tiering/drop_check.h"
#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::PageIndex;
using pcow::PageMap;

namespace {

// Pages that the barrier copies again, about 0.3 µs each.
constexpr size_t kResidueMax = 16;

}  // namespace

// Leaves out what cannot be staged: it is served as it is.
pcow::Result<void> RegionImpl::plan_huge(std::span<const ChunkIndex> wanted,
                                         PreparedMoves& prepared) {
  for (const ChunkIndex chunk : wanted.first(std::min(wanted.size(), Moves::kHugeMax))) {
    PCOW_TRY(inside({pcow::first_page(chunk), kPagesPerChunk}));
    if (!tracker_->adopts_pages()) continue;
    const bool fits =
        chunks_.mappings_if_holes({chunk, 1}) + 2 * plan_.huge.size() <= options_.mapping_budget;
    if (!fits || !may_be_huge(chunk, {})) continue;
    pcow::Result<HugeStage> stage = stage_chunk(chunk);
    if (!stage) continue;
    plan_.huge.push_back({chunk, *std::move(stage)});
    prepared.huge.push_back(chunk);
  }
  return {};
}

// Whether nothing in a chunk is pinned, or discarded.
bool RegionImpl::may_be_huge(ChunkIndex chunk, const PageSet& pinned) const {
  for (const PageSet* set : {&pinned, &discarded_, &zero_copies_}) {
    if (set->empty()) continue;
    for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
      if (set->contains(pcow::first_page(chunk) + i)) return false;
    }
  }
  return true;
}

// Errors: kNoMemory (also no 2 MiB in one piece), and of Image::read().
pcow::Result<HugeStage> RegionImpl::stage_chunk(ChunkIndex chunk) {
  PCOW_TRY_ASSIGN(HugeStage stage, HugeStage::map());
  const AddressRange content{stage.content(), kChunkSize};
  PCOW_TRY(kernel::advise_huge_pages(content.start, content.length, kernel::HugePages::kAllowed));
  PCOW_TRY(kernel::advise_no_fork(content.start, content.length));
  PCOW_TRY(kernel::advise_no_merge(content.start, content.length));
  PCOW_TRY(kernel::advise_dump(content.start, content.length, options_.dump));
  if (options_.placement.policy != numa::Policy::kDefault) {
    PCOW_TRY(numa::apply(options_.placement, content.start, content.length));
  }
  PCOW_TRY(copy_chunk(chunk, content.start));
  uint64_t huge_bytes = 0;
  PCOW_TRY(tracker_->inspect(content, [&](AddressRange run, PageState state) {
    if (state.huge) huge_bytes += run.length;
  }));
  if (huge_bytes == kChunkSize) return stage;
  return pcow::make_error(pcow::Code::kNoMemory, "the kernel has no 2 MiB of memory in one piece");
}

pcow::Result<void> RegionImpl::copy_chunk(ChunkIndex chunk, std::byte* to) {
  const AddressRange from = range_of({chunk, 1});
  std::vector<AddressRange> copies;
  PCOW_TRY(tracker_->inspect(from, [&](AddressRange run, PageState) { copies.push_back(run); }));
  copies.push_back({from.start + from.length, 0});
  uint64_t done = 0;
  for (const AddressRange& copy : copies) {
    const auto start = static_cast<uint64_t>(copy.start - from.start);
    if (start > done) {
      PCOW_TRY(image_.read(chunk.value * kChunkSize + done, std::span(to + done, start - done)));
    }
    std::memcpy(to + start, copy.start, copy.length);
    done = start + copy.length;
  }
  return {};
}

// REQUIRES: as apply_demotion().
pcow::Result<void> RegionImpl::apply_huge(std::span<const PlannedHuge> planned,
                                          const PageSet& pinned, BarrierReport& report) {
  for (const PlannedHuge& huge : planned) {
    const PageIndex first = pcow::first_page(huge.chunk);
    if (!may_be_huge(huge.chunk, pinned) ||
        chunks_.mappings_if_holes({huge.chunk, 1}) > options_.mapping_budget) {
      continue;
    }
    PageMap stored;
    for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
      if (was_stored_to(stored_since_plan_, first + i)) stored.set(i);
    }
    if (stored.count() > kResidueMax) continue;
    for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
      if (!stored[i]) continue;
      std::memcpy(huge.stage.content() + i * kPageSize, space_.at((first + i).value * kPageSize),
                  kPageSize);
    }
    PCOW_TRY(exchange_for_huge(huge));
    ++report.huge_chunks;
  }
  return {};
}

// H4.
pcow::Result<void> RegionImpl::exchange_for_huge(const PlannedHuge& huge) {
  copied_.reserve(pcow::gib_of(huge.chunk));
  residency_.invalidate({huge.chunk, 1});
  PCOW_TRY(space_.move_copies(huge.chunk.value * kChunkSize, kChunkSize, huge.stage.former()));
  pcow::Result<void> mapped = map_huge(huge);
  if (!mapped) {
    std::memcpy(range_of({huge.chunk, 1}).start, huge.stage.former(), kChunkSize);
    copied_.insert(pcow::first_page(huge.chunk), kPagesPerChunk);
  }
  return mapped;
}

pcow::Result<void> RegionImpl::map_huge(const PlannedHuge& huge) {
  const ChunkRun run{huge.chunk, 1};
  // Anew even where the chunk is a hole: only where there is no page table the page stays huge.
  PCOW_TRY(space_.map_anonymous(huge.chunk.value * kChunkSize, kChunkSize));
  chunks_.set_holes(run);
  PCOW_TRY(give_attributes(run, kernel::HugePages::kNever));
  return tracker_->adopt(range_of(run), huge.stage.content());
}

}  // namespace tiering
