// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/chunk_map.h"

#include <algorithm>
#include <bit>
#include <string>

namespace tiering {

using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::kChunksPerSegment;

ChunkMap::ChunkMap(uint64_t chunks)
    : chunks_(chunks),
      cached_((chunks + kWordBits - 1) / kWordBits),
      boundary_(cached_.size()),
      segments_((chunks + kChunksPerSegment - 1) / kChunksPerSegment) {}

uint64_t ChunkMap::file_offset(ChunkIndex chunk) const {
  const auto& segment = segments_[pcow::gib_of(chunk).value];
  return segment.value() + pcow::chunk_in_segment(chunk) * pcow::kChunkSize;
}

ChunkRun ChunkMap::gib_run(GibIndex gib) const {
  const ChunkIndex first = pcow::first_chunk(gib);
  return {first, std::min(kChunksPerSegment, chunks() - first.value)};
}

ChunkRun ChunkMap::run_from(ChunkIndex first) const {
  uint64_t word = (first.value + 1) / kWordBits;
  uint64_t mask = ~uint64_t{0} << ((first.value + 1) % kWordBits);
  for (; word < cached_.size(); ++word) {
    const uint64_t found = needed_boundaries(word) & mask;
    if (found != 0) {
      const uint64_t end = word * kWordBits + static_cast<uint64_t>(std::countr_zero(found));
      return {first, end - first.value};
    }
    mask = ~uint64_t{0};
  }
  return {first, chunks() - first.value};
}

// Whether the windows of a cached chunk and its right neighbour are neighbours in the file.
bool ChunkMap::contiguous_in_file(uint64_t left_chunk) const {
  if ((left_chunk + 1) % kChunksPerSegment != 0) return true;
  const auto& left = segments_[left_chunk / kChunksPerSegment];
  const auto& right = segments_[left_chunk / kChunksPerSegment + 1];
  return left && right && *right == *left + pcow::kSegmentSize;
}

uint64_t ChunkMap::needed_boundaries(uint64_t word) const {
  const uint64_t first = word * kWordBits;
  const uint64_t before = first > 0 ? cached_[word - 1] >> (kWordBits - 1) : cached_[word] & 1;
  uint64_t needed = cached_[word] ^ (cached_[word] << 1 | before);
  // A segment begins with a word: the file may be discontiguous only there.
  static_assert(kChunksPerSegment % kWordBits == 0);
  if (first > 0 && first % kChunksPerSegment == 0 && (before & cached_[word] & 1) != 0 &&
      !contiguous_in_file(first - 1)) {
    needed |= 1;
  }
  const uint64_t rest = chunks() - first;
  return rest < kWordBits ? needed & ((uint64_t{1} << rest) - 1) : needed;
}

void ChunkMap::set_boundary(uint64_t chunk, bool value) {
  if (test(boundary_, chunk) == value) return;
  boundary_[chunk / kWordBits] ^= uint64_t{1} << (chunk % kWordBits);
  boundaries_ += value ? uint64_t{1} : ~uint64_t{0};
}

ChunkMap::Edges ChunkMap::edges_after(ChunkRun run) const {
  const uint64_t first = run.first.value;
  const uint64_t end = run.end().value;
  const bool joins_left = first > 0 && test(cached_, first - 1) && contiguous_in_file(first - 1);
  const bool joins_right = end < chunks() && test(cached_, end) && contiguous_in_file(end - 1);
  // With both neighbours mergeable the kernel may merge with either or both: keep both boundaries.
  const bool both = joins_left && joins_right;
  return {.left = first > 0 && (!joins_left || both),
          .right = end < chunks() && (!joins_right || both),
          .closes_gap = both};
}

uint64_t ChunkMap::boundaries_between(uint64_t first, uint64_t end) const {
  uint64_t count = 0;
  for (uint64_t chunk = first; chunk < std::min(end, chunks());) {
    const uint64_t word = boundary_[chunk / kWordBits] >> (chunk % kWordBits);
    const uint64_t bits = std::min(kWordBits - chunk % kWordBits, end - chunk);
    const uint64_t mask = bits < kWordBits ? (uint64_t{1} << bits) - 1 : ~uint64_t{0};
    count += static_cast<uint64_t>(std::popcount(word & mask));
    chunk += bits;
  }
  return count;
}

uint64_t ChunkMap::mappings_after(ChunkRun run) const {
  const Edges edges = edges_after(run);
  const uint64_t before = boundaries_between(run.first.value, run.end().value + 1);
  return mappings() - before + (edges.left ? 1U : 0U) + (edges.right ? 1U : 0U);
}

void ChunkMap::set_cached(ChunkRun run) {
  const Edges edges = edges_after(run);
  for (uint64_t chunk = run.first.value; chunk < run.end().value; ++chunk) {
    mark_cached(chunk);
    if (chunk > run.first.value) set_boundary(chunk, false);
  }
  slack_ += edges.closes_gap ? 1U : 0U;
  if (run.first.value > 0) set_boundary(run.first.value, edges.left);
  if (run.end().value < chunks()) set_boundary(run.end().value, edges.right);
}

void ChunkMap::resync(const std::vector<ChunkIndex>& mapping_starts) {
  boundary_.assign(boundary_.size(), 0);
  boundaries_ = 0;
  slack_ = 0;
  for (const ChunkIndex start : mapping_starts) {
    if (start.value > 0 && start.value < chunks()) set_boundary(start.value, true);
  }
}

uint64_t ChunkMap::inner_boundaries(GibIndex gib) const {
  const ChunkRun run = gib_run(gib);
  return boundaries_between(run.first.value + 1, run.end().value);
}

void ChunkMap::mark_cached(uint64_t chunk) {
  cached_count_ += test(cached_, chunk) ? 0U : 1U;
  cached_[chunk / kWordBits] |= uint64_t{1} << (chunk % kWordBits);
}

void ChunkMap::want_cached(GibIndex gib, const std::bitset<kChunksPerSegment>& chunks) {
  const std::bitset<kChunksPerSegment> low_word(~uint64_t{0});
  const uint64_t first = gib.value * (kChunksPerSegment / kWordBits);
  const uint64_t end = std::min(first + kChunksPerSegment / kWordBits, cached_.size());
  for (uint64_t word = first; word < end; ++word) {
    const uint64_t inside = chunks_ - word * kWordBits;
    uint64_t wanted = (chunks >> ((word - first) * kWordBits) & low_word).to_ullong();
    if (inside < kWordBits) wanted &= (uint64_t{1} << inside) - 1;
    cached_count_ += static_cast<uint64_t>(std::popcount(wanted & ~cached_[word]));
    cached_[word] |= wanted;
  }
}

// Planning only: nothing is mapped yet, so that mergeable neighbours do merge.
void ChunkMap::plan_words(uint64_t first, uint64_t end) {
  for (uint64_t word = first; word < std::min(end, boundary_.size()); ++word) {
    boundaries_ -= static_cast<uint64_t>(std::popcount(boundary_[word]));
    boundary_[word] = needed_boundaries(word);
    boundaries_ += static_cast<uint64_t>(std::popcount(boundary_[word]));
  }
}

void ChunkMap::take_whole_gib(GibIndex gib) {
  const ChunkRun run = gib_run(gib);
  want_cached(gib, ~std::bitset<kChunksPerSegment>());
  // With the first boundary of the next GiB.
  plan_words(run.first.value / kWordBits, run.end().value / kWordBits + 1);
}

pcow::Result<void> ChunkMap::plan(uint64_t aim, uint64_t budget) {
  plan_words(0, boundary_.size());
  if (mappings() <= aim) return {};

  struct Candidate {
    GibIndex gib;
    uint64_t saves;
  };
  std::vector<Candidate> candidates;
  for (uint64_t gib = 0; gib < gibs(); ++gib) {
    const uint64_t saves = inner_boundaries(GibIndex(gib));
    if (saves > 0 && segments_[gib]) candidates.push_back({GibIndex(gib), saves});
  }
  std::ranges::stable_sort(candidates, std::ranges::greater{}, &Candidate::saves);
  for (const Candidate& candidate : candidates) {
    if (mappings() <= aim) return {};
    take_whole_gib(candidate.gib);
  }
  if (mappings() <= budget) return {};
  const std::string least = std::to_string(mappings());
  return pcow::make_error(pcow::Code::kNoMemory,
                          "mapping-budget=" + std::to_string(budget) +
                              " is too small: this image needs at least " + least +
                              " kernel mappings, because its segments are scattered over the "
                              "file; use mapping-budget=" +
                              least + " or more");
}

}  // namespace tiering
