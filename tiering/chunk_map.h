// SPDX-License-Identifier: BSD-3-Clause
//
// Which chunks of a region are holes, which are cached and in which window, and how many kernel
// mappings that takes. Pure bookkeeping and policy: no system call, no I/O.
//
// Neighbouring chunks share a kernel mapping when both are holes, or both are cached and their
// windows are neighbours in one file. A boundary is the place between two chunks where one mapping
// may end; the count of mappings is the number of boundaries plus one.
//
// Invariant: the boundaries kept here are a superset of the kernel's. They are more when a chunk
// closes the gap between two cached runs: the kernel merges the new mapping with both neighbours
// only if these share an anon_vma, which user space cannot know, so both boundaries are kept until
// resync() learns the truth. The kernel never adds a boundary by itself.
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <pcow/units.h>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace tiering {

enum class ChunkState { kHole, kCached };

struct ChunkRun {
  pcow::ChunkIndex first;
  uint64_t count = 0;

  pcow::ChunkIndex end() const { return first + count; }
};

class ChunkMap {
 public:
  // All holes. REQUIRES: chunks > 0. Throws std::bad_alloc.
  explicit ChunkMap(uint64_t chunks);

  uint64_t chunks() const { return windows_.size(); }
  uint64_t gibs() const { return segments_.size(); }
  uint64_t cached_chunks() const { return cached_count_; }
  ChunkState state(pcow::ChunkIndex chunk) const {
    return windows_[chunk.value] == kNoWindow ? ChunkState::kHole : ChunkState::kCached;
  }
  // Of the window of a cached chunk.
  pcow::FilePlace place(pcow::ChunkIndex chunk) const {
    const Window& window = windows_[chunk.value];
    return {window.file, uint64_t{window.index} * pcow::kWindowSize};
  }

  // The parts of the segment that may be mapped for all of a GiB (pcow::GibLayout); empty: there is
  // none. What it says may be out of date.
  void set_segment(pcow::GibIndex gib, std::vector<pcow::FilePlace> parts) {
    segments_[gib.value] = std::move(parts);
  }
  bool has_segment(pcow::GibIndex gib) const { return !segments_[gib.value].empty(); }
  // What one mmap() each can map, to map all of a GiB so. REQUIRES: has_segment().
  struct Part {
    ChunkRun run;
    pcow::FilePlace place;
  };
  std::vector<Part> parts_of(pcow::GibIndex gib) const;

  // The chunks of a GiB that are inside the region.
  ChunkRun gib_run(pcow::GibIndex gib) const;
  // The longest run from `first` on that one mmap() can map.
  ChunkRun run_from(pcow::ChunkIndex first) const;

  // Upper bound of the kernel mappings in use.
  uint64_t mappings() const { return boundaries_ + 1; }
  // The same, if `run` were mapped from this place by one mmap().
  uint64_t mappings_after(ChunkRun run, pcow::FilePlace place) const;
  // The most it can be if a whole GiB were mapped from its segment; of a GiB without one, if it had
  // one in a single part.
  uint64_t mappings_if_whole(pcow::GibIndex gib) const;
  // Notes that `run` was mapped so.
  void set_cached(ChunkRun run, pcow::FilePlace place);
  // The most they can be if all of `run` were mapped by one mmap() as holes.
  uint64_t mappings_if_holes(ChunkRun run) const;
  // Notes that it was.
  void set_holes(ChunkRun run);
  // Replaces the boundaries by the kernel's: the first chunks of its mappings, ascending.
  void resync(const std::vector<pcow::ChunkIndex>& mapping_starts);

  // How many gaps were closed since the last resync(): what resync() may save at most.
  uint64_t slack() const { return slack_; }

  // What mapping all of a GiB from its segment would save; of one without a segment, from a segment
  // in a single part.
  uint64_t saved_if_whole(pcow::GibIndex gib) const;

  // Before anything is mapped: makes the chunks of a GiB what the image has; then plan() decides.
  // REQUIRES: no chunk is kMixed.
  void want(pcow::GibIndex gib, const pcow::GibLayout& layout);
  // Chooses the mappings to open with: exactly the wanted chunks are cached if that takes at most
  // `aim` mappings, else whole GiBs too, where one segment may be mapped for them, those first
  // where it saves most. Returns the mappings it takes, which may be more than `aim`.
  uint64_t plan(uint64_t aim);
  // Of the GiBs that no single segment may be mapped for, the one with most boundaries inside.
  std::optional<pcow::GibIndex> most_scattered_gib() const;

 private:
  struct Edges {
    bool left = false;   // boundary before the run
    bool right = false;  // boundary after the run
    bool closes_gap = false;
  };

  struct Window {
    uint32_t index;
    uint32_t file;

    bool operator==(const Window&) const = default;
    Window operator+(uint64_t windows) const {
      return {static_cast<uint32_t>(index + windows), file};
    }
  };

  // Window 0 of an image holds its superblock.
  static constexpr Window kNoWindow{0, 0};

  static Window window_at(pcow::FilePlace place) {
    return {static_cast<uint32_t>(place.offset / pcow::kWindowSize), place.file};
  }
  // Whether one mapping may hold the windows `left` and, right of it, `right`.
  static bool joins(Window left, Window right) {
    return left == kNoWindow ? right == kNoWindow : right == left + 1;
  }
  bool needs_boundary(uint64_t chunk) const {
    return chunk > 0 && !joins(windows_[chunk - 1], windows_[chunk]);
  }
  void set_boundary(uint64_t chunk, bool value);
  Edges edges_after(ChunkRun run, pcow::FilePlace place) const;
  uint64_t boundaries_between(uint64_t first, uint64_t end) const;
  // Boundaries inside a GiB; and inside its segment.
  uint64_t inner_boundaries(pcow::GibIndex gib) const;
  uint64_t inner_boundaries_if_whole(pcow::GibIndex gib) const;
  void set_window(uint64_t chunk, Window window);
  void plan_boundaries(uint64_t first, uint64_t end);
  void take_whole_gib(pcow::GibIndex gib);

  std::vector<Window> windows_;                         // of each chunk; kNoWindow: a hole
  std::vector<bool> boundary_;                          // bit i: between chunk i - 1 and chunk i
  std::vector<std::vector<pcow::FilePlace>> segments_;  // of each GiB: its parts
  uint64_t boundaries_ = 0;
  uint64_t cached_count_ = 0;
  uint64_t slack_ = 0;
};

}  // namespace tiering
