// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/chunk_map.h"

#include <algorithm>

namespace tiering {

using pcow::ChunkIndex;
using pcow::GibIndex;
using pcow::GibLayout;
using pcow::kChunksPerSegment;

ChunkMap::ChunkMap(uint64_t chunks)
    : windows_(chunks, kNoWindow),
      boundary_(chunks),
      segments_((chunks + kChunksPerSegment - 1) / kChunksPerSegment) {}

ChunkRun ChunkMap::gib_run(GibIndex gib) const {
  const ChunkIndex first = pcow::first_chunk(gib);
  return {first, std::min(kChunksPerSegment, chunks() - first.value)};
}

ChunkRun ChunkMap::run_from(ChunkIndex first) const {
  uint64_t end = first.value + 1;
  while (end < chunks() && !needs_boundary(end)) ++end;
  return {first, end - first.value};
}

void ChunkMap::set_boundary(uint64_t chunk, bool value) {
  if (boundary_[chunk] == value) return;
  boundary_[chunk] = value;
  boundaries_ += value ? uint64_t{1} : ~uint64_t{0};
}

ChunkMap::Edges ChunkMap::edges_after(ChunkRun run, pcow::FilePlace place) const {
  const uint64_t first = run.first.value;
  const uint64_t end = run.end().value;
  const Window window = window_at(place);
  const Window last = window + (run.count - 1);
  const bool joins_left = first > 0 && joins(windows_[first - 1], window);
  const bool joins_right = end < chunks() && joins(last, windows_[end]);
  // With both neighbours mergeable the kernel may merge with either or both: keep both boundaries.
  const bool both = joins_left && joins_right;
  return {.left = first > 0 && (!joins_left || both),
          .right = end < chunks() && (!joins_right || both),
          .closes_gap = both};
}

uint64_t ChunkMap::boundaries_between(uint64_t first, uint64_t end) const {
  const auto at = [&](uint64_t chunk) {
    return boundary_.begin() + static_cast<std::ptrdiff_t>(std::min(chunk, chunks()));
  };
  return static_cast<uint64_t>(std::count(at(first), at(end), true));
}

uint64_t ChunkMap::mappings_after(ChunkRun run, pcow::FilePlace place) const {
  const Edges edges = edges_after(run, place);
  const uint64_t before = boundaries_between(run.first.value, run.end().value + 1);
  return mappings() - before + (edges.left ? 1U : 0U) + (edges.right ? 1U : 0U);
}

uint64_t ChunkMap::mappings_if_whole(GibIndex gib) const {
  const ChunkRun run = gib_run(gib);
  const uint64_t before = boundaries_between(run.first.value, run.end().value + 1);
  return mappings() - before + (gib.value > 0 ? 1U : 0U) + (run.end().value < chunks() ? 1U : 0U) +
         inner_boundaries_if_whole(gib);
}

void ChunkMap::set_cached(ChunkRun run, pcow::FilePlace place) {
  const Edges edges = edges_after(run, place);
  const Window window = window_at(place);
  for (uint64_t chunk = run.first.value; chunk < run.end().value; ++chunk) {
    set_window(chunk, window + (chunk - run.first.value));
    if (chunk > run.first.value) set_boundary(chunk, false);
  }
  slack_ += edges.closes_gap ? 1U : 0U;
  if (run.first.value > 0) set_boundary(run.first.value, edges.left);
  if (run.end().value < chunks()) set_boundary(run.end().value, edges.right);
}

uint64_t ChunkMap::mappings_if_holes(ChunkRun run) const {
  const uint64_t before = boundaries_between(run.first.value, run.end().value + 1);
  return mappings() - before + (run.first.value > 0 ? 1U : 0U) +
         (run.end().value < chunks() ? 1U : 0U);
}

void ChunkMap::set_holes(ChunkRun run) {
  for (uint64_t chunk = run.first.value; chunk < run.end().value; ++chunk) {
    cached_count_ -= windows_[chunk] == kNoWindow ? 0U : 1U;
    windows_[chunk] = kNoWindow;
    if (chunk > run.first.value) set_boundary(chunk, false);
  }
  // Whether the kernel merges it with holes beside it, resync() learns.
  for (const uint64_t edge : {run.first.value, run.end().value}) {
    if (edge == 0 || edge >= chunks()) continue;
    slack_ += needs_boundary(edge) ? 0U : 1U;
    set_boundary(edge, true);
  }
}

void ChunkMap::resync(const std::vector<ChunkIndex>& mapping_starts) {
  boundary_.assign(boundary_.size(), false);
  boundaries_ = 0;
  slack_ = 0;
  for (const ChunkIndex start : mapping_starts) {
    if (start.value > 0 && start.value < chunks()) set_boundary(start.value, true);
  }
}

std::vector<ChunkMap::Part> ChunkMap::parts_of(GibIndex gib) const {
  const ChunkRun all = gib_run(gib);
  const std::vector<pcow::FilePlace>& segment = segments_[gib.value];
  const uint64_t length = kChunksPerSegment / segment.size();
  std::vector<Part> parts;
  for (uint64_t i = 0; i * length < all.count; ++i) {
    parts.push_back(
        {{all.first + i * length, std::min(length, all.count - i * length)}, segment[i]});
  }
  return parts;
}

uint64_t ChunkMap::inner_boundaries_if_whole(GibIndex gib) const {
  return has_segment(gib) ? parts_of(gib).size() - 1 : 0;
}

uint64_t ChunkMap::saved_if_whole(GibIndex gib) const {
  const uint64_t now = inner_boundaries(gib);
  return now - std::min(now, inner_boundaries_if_whole(gib));
}

uint64_t ChunkMap::inner_boundaries(GibIndex gib) const {
  const ChunkRun run = gib_run(gib);
  return boundaries_between(run.first.value + 1, run.end().value);
}

void ChunkMap::set_window(uint64_t chunk, Window window) {
  cached_count_ += windows_[chunk] == kNoWindow ? 1U : 0U;
  windows_[chunk] = window;
}

void ChunkMap::want(GibIndex gib, const GibLayout& layout) {
  const ChunkRun run = gib_run(gib);
  for (uint64_t i = 0; i < run.count; ++i) {
    const GibLayout::Chunk& chunk = layout.chunks.at(i);
    if (chunk.kind == GibLayout::Kind::kWindow) {
      set_window(run.first.value + i, window_at(chunk.window));
    }
  }
  set_segment(gib, layout.segment);
}

// Planning only: nothing is mapped yet, so that mergeable neighbours do merge.
void ChunkMap::plan_boundaries(uint64_t first, uint64_t end) {
  for (uint64_t chunk = first; chunk < std::min(end, chunks()); ++chunk) {
    set_boundary(chunk, needs_boundary(chunk));
  }
}

void ChunkMap::take_whole_gib(GibIndex gib) {
  const ChunkRun run = gib_run(gib);
  for (const Part& part : parts_of(gib)) {
    const Window window = window_at(part.place);
    for (uint64_t i = 0; i < part.run.count; ++i) {
      set_window(part.run.first.value + i, window + i);
    }
  }
  // With the first boundary of the next GiB.
  plan_boundaries(run.first.value, run.end().value + 1);
}

uint64_t ChunkMap::plan(uint64_t aim) {
  plan_boundaries(0, chunks());

  struct Candidate {
    GibIndex gib;
    uint64_t saves;
  };
  std::vector<Candidate> candidates;
  for (uint64_t gib = 0; mappings() > aim && gib < gibs(); ++gib) {
    const uint64_t saves = saved_if_whole(GibIndex(gib));
    if (saves > 0 && has_segment(GibIndex(gib))) candidates.push_back({GibIndex(gib), saves});
  }
  std::ranges::stable_sort(candidates, std::ranges::greater{}, &Candidate::saves);
  for (const Candidate& candidate : candidates) {
    if (mappings() <= aim) break;
    take_whole_gib(candidate.gib);
  }
  return mappings();
}

std::optional<GibIndex> ChunkMap::most_scattered_gib() const {
  std::optional<GibIndex> worst;
  uint64_t most = 0;
  for (GibIndex gib(0); gib.value < gibs(); ++gib) {
    const uint64_t inner = has_segment(gib) ? 0 : inner_boundaries(gib);
    if (inner <= most) continue;
    most = inner;
    worst = gib;
  }
  return worst;
}

}  // namespace tiering
