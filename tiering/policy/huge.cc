// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/policy/huge.h"

#include <algorithm>
#include <functional>
#include <optional>

namespace tiering {
namespace {

struct Candidate {
  pcow::ChunkIndex chunk;
  uint64_t heat = 0;           // of all pages
  uint64_t missing_pages = 0;  // that are not in DRAM
};

bool is_written(PageRecord record, uint32_t idle_min) {
  return record.known() && !record.last_read() && record.idle() < idle_min;
}

bool may_be_huge(const ChunkView& chunk, uint32_t idle_min) {
  const ChunkResidency& copies = chunk.in_dram;
  if (copies.huge || copies.pinned.any() || copies.resident.count() < kHugeResidentMin) {
    return false;
  }
  for (uint64_t page = 0; chunk.words != nullptr && page < pcow::kPagesPerChunk; ++page) {
    if (is_written(chunk.record(page), idle_min)) return false;
  }
  return true;
}

bool is_demoted(pcow::ChunkIndex chunk, std::span<const PageRun> demotions) {
  const auto run = std::ranges::upper_bound(demotions, pcow::first_page(chunk), {}, &PageRun::end);
  return run != demotions.end() && run->first < pcow::first_page(chunk + 1);
}

uint64_t heat_of(const ChunkView& chunk) {
  uint64_t heat = 0;
  for (uint64_t page = 0; chunk.words != nullptr && page < pcow::kPagesPerChunk; ++page)
    heat += chunk.record(page).heat();
  return heat;
}

}  // namespace

std::vector<pcow::ChunkIndex> choose_huge(Snapshot snapshot, const Plan& plan,
                                          const HugeLimits& limits) {
  std::vector<Candidate> candidates;
  for (const ChunkView& chunk : snapshot) {
    if (!may_be_huge(chunk, limits.idle_min) || is_demoted(chunk.in_dram.chunk, plan.demotions)) {
      continue;
    }
    candidates.push_back({chunk.in_dram.chunk, heat_of(chunk),
                          pcow::kPagesPerChunk - chunk.in_dram.resident.count()});
  }
  std::ranges::stable_sort(candidates, std::ranges::greater(), &Candidate::heat);
  uint64_t room_pages = limits.room_pages;
  std::vector<pcow::ChunkIndex> chosen;
  for (const Candidate& candidate : candidates) {
    if (chosen.size() == limits.chunks_max) break;
    if (candidate.missing_pages > room_pages) continue;
    room_pages -= candidate.missing_pages;
    chosen.push_back(candidate.chunk);
  }
  std::ranges::sort(chosen);
  return chosen;
}

WholeChunks with_whole_chunks(std::span<const PageRun> chosen,
                              std::span<const ChunkResidency> copies) {
  WholeChunks whole;
  auto here = copies.begin();
  PageBits of_chunk;
  const auto add_chunk = [&](pcow::ChunkIndex chunk) {
    while (here != copies.end() && here->chunk < chunk) ++here;
    PageBits going = of_chunk;
    if (here != copies.end() && here->chunk == chunk && here->hole &&
        of_chunk.count() >= kWholeChunkMin) {
      going |= here->resident & ~here->dirty & ~here->pinned;
    }
    for (uint64_t i = 0; i < pcow::kPagesPerChunk; ++i) {
      if (!going[i]) continue;
      add_page(whole.demotions, pcow::first_page(chunk) + i);
      if (!of_chunk[i]) add_page(whole.returning, pcow::first_page(chunk) + i);
    }
    of_chunk.reset();
  };
  std::optional<pcow::ChunkIndex> last;
  for (const PageRun& run : chosen) {
    for (pcow::PageIndex page = run.first; page < run.end(); ++page) {
      const pcow::ChunkIndex chunk = pcow::chunk_of(page);
      if (last && *last != chunk) add_chunk(*last);
      last = chunk;
      of_chunk.set(pcow::page_in_chunk(page));
    }
  }
  if (last) add_chunk(*last);
  return whole;
}

}  // namespace tiering
