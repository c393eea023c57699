// SPDX-License-Identifier: BSD-3-Clause
//
// Which chunks of a region are holes and which are cached, and how many kernel mappings that takes.
// Pure bookkeeping and policy: no system call, no I/O.
//
// Neighbouring chunks share a kernel mapping when both are holes, or both are cached and lie next
// to each other in the file. A boundary is the place between two chunks where one mapping may end;
// the count of mappings is the number of boundaries plus one.
//
// Invariant: the boundaries kept here are a superset of the kernel's. They are more when a chunk
// closes the gap between two cached runs: the kernel merges the new mapping with both neighbours
// only if these share an anon_vma, which user space cannot know, so both boundaries are kept until
// resync() learns the truth. The kernel never adds a boundary by itself.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <bitset>
#include <cstdint>
#include <optional>
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
  // All holes, no segment reserved. REQUIRES: chunks > 0. Throws std::bad_alloc.
  explicit ChunkMap(uint64_t chunks);

  uint64_t chunks() const { return chunks_; }
  uint64_t gibs() const { return segments_.size(); }
  uint64_t cached_chunks() const { return cached_count_; }
  ChunkState state(pcow::ChunkIndex chunk) const {
    return test(cached_, chunk.value) ? ChunkState::kCached : ChunkState::kHole;
  }

  // Where the windows of a GiB lie in the file; unset while the image has not reserved them.
  void set_segment(pcow::GibIndex gib, uint64_t file_offset) { segments_[gib.value] = file_offset; }
  std::optional<uint64_t> segment(pcow::GibIndex gib) const { return segments_[gib.value]; }
  // REQUIRES: the chunk's segment is set.
  uint64_t file_offset(pcow::ChunkIndex chunk) const;

  // The chunks of a GiB that are inside the region.
  ChunkRun gib_run(pcow::GibIndex gib) const;
  // The longest run from `first` on that one mmap() can map.
  ChunkRun run_from(pcow::ChunkIndex first) const;

  // Upper bound of the kernel mappings in use.
  uint64_t mappings() const { return boundaries_ + 1; }
  // The same, if `run` were mapped from the file by one mmap(). REQUIRES: one GiB, segment set.
  uint64_t mappings_after(ChunkRun run) const;
  // Notes that `run` was mapped from the file by one mmap(). REQUIRES: as mappings_after().
  void set_cached(ChunkRun run);
  // Replaces the boundaries by the kernel's: the first chunks of its mappings, ascending.
  void resync(const std::vector<pcow::ChunkIndex>& mapping_starts);

  // How many gaps were closed since the last resync(): what resync() may save at most.
  uint64_t slack() const { return slack_; }

  // Boundaries inside a GiB: what one mapping for all of it would save.
  uint64_t inner_boundaries(pcow::GibIndex gib) const;

  // Before anything is mapped: makes these chunks of a GiB cached; then plan() decides.
  void want_cached(pcow::GibIndex gib, const std::bitset<pcow::kChunksPerSegment>& chunks);
  // Chooses the mappings to open with: exactly the wanted chunks are cached if that takes at most
  // `aim` mappings, else whole reserved GiBs too, those first where it saves most.
  // Errors: kNoMemory, naming the least budget that would do, when not even that fits `budget`.
  pcow::Result<void> plan(uint64_t aim, uint64_t budget);

 private:
  struct Edges {
    bool left = false;   // boundary before the run
    bool right = false;  // boundary after the run
    bool closes_gap = false;
  };

  static constexpr uint64_t kWordBits = 64;
  using Words = std::vector<uint64_t>;  // one bit per chunk

  static bool test(const Words& words, uint64_t chunk) {
    return (words[chunk / kWordBits] >> (chunk % kWordBits) & 1) != 0;
  }
  bool contiguous_in_file(uint64_t left_chunk) const;
  // The boundaries that the states of 64 chunks demand.
  uint64_t needed_boundaries(uint64_t word) const;
  void set_boundary(uint64_t chunk, bool value);
  Edges edges_after(ChunkRun run) const;
  uint64_t boundaries_between(uint64_t first, uint64_t end) const;
  void mark_cached(uint64_t chunk);
  void plan_words(uint64_t first, uint64_t end);
  void take_whole_gib(pcow::GibIndex gib);

  uint64_t chunks_;
  Words cached_;
  Words boundary_;  // bit i: between chunk i - 1 and chunk i
  std::vector<std::optional<uint64_t>> segments_;
  uint64_t boundaries_ = 0;
  uint64_t cached_count_ = 0;
  uint64_t slack_ = 0;
};

}  // namespace tiering
