// SPDX-License-Identifier: BSD-3-Clause
//
// A region: guest memory mapped over a pcow image, chunk by chunk.
//
//   chunk state   mapping                                 guest read      guest write
//   hole          anonymous private                       zero page       kernel zero-fills DRAM
//   cached        MAP_PRIVATE of the chunk's window       straight from   kernel copies the page
//                                                         the image       to DRAM
//
// The kernel takes every fault; the region changes mappings only inside commit() and barrier(),
// while the caller keeps all writers quiet. That single rule is what makes "no lost store"
// arguable: see ARCHITECTURE.md, "The barrier rule".
//
// Thread-safety: base() and size() are constant, pin() and unpin() may be called by anyone at any
// time; everything else, also what uses the image, is for one thread at a time.
#pragma once

#include <numa-policy/placement.h>
#include <pcow/image.h>
#include <pcow/status.h>
#include <tiering/residency.h>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace tiering {

inline constexpr uint32_t kDefaultMappingBudget = 8192;
inline constexpr uint32_t kMinMappingBudget = 16;

enum class TrackerKind {
  kAuto,         // pagemap-scan where the kernel has it, else soft-dirty
  kPagemapScan,  // PAGEMAP_SCAN over userfaultfd WP_ASYNC (Linux 6.7)
  kSoftDirty,    // /proc/self/clear_refs (CONFIG_MEM_SOFT_DIRTY)
};
std::string_view tracker_name(TrackerKind kind);  // "pagemap-scan", "soft-dirty"

enum class Persistence {
  kVolatile,  // commit() stores pages in place: a crash of it leaves each page old or new
  kEpoch,     // pages go through the image's log: a crash leaves exactly the last epoch
};

struct RegionOptions {
  Persistence persistence = Persistence::kVolatile;
  uint64_t dram_size = 0;  // bytes of DRAM kept after a commit; 0: no limit
  uint32_t mapping_budget = kDefaultMappingBudget;
  TrackerKind tracker = TrackerKind::kAuto;
  numa::Placement placement = {};  // of DRAM pages
  bool dump = true;                // include in core dumps
};

struct CommitReport {
  pcow::Epoch epoch;
  uint64_t scanned_pages = 0;
  uint64_t written_pages = 0;
  uint64_t zero_pages = 0;
  uint64_t demoted_pages = 0;
};

struct PrecopyReport {
  uint64_t found_pages = 0;  // stored to since they were copied last
  uint64_t logged_bytes = 0;
  bool idle = false;  // a barrier now would find nothing to log, nor to demote
  // Half the log is taken, the rest is for the barrier, or the caller stopped it: make that now.
  bool log_filling = false;
};

// Called with the pages that are still to be logged and those that the log has room for, again and
// again while a round of copying goes on; true ends it.
using PrecopyStop = std::function<bool(uint64_t left_pages, uint64_t room_pages)>;

struct BarrierReport {
  uint64_t residue_pages = 0;  // copied while everybody waited
  uint64_t pinned_pages = 0;   // of them under pin(), or released since the last round
  uint64_t logged_bytes = 0;
  uint64_t demoted_pages = 0;
  uint64_t kept_pages = 0;      // planned to be demoted, and stored to since, or without a mapping
  uint64_t restarts = 0;        // of the epoch, because the log had no room for all of it
  uint64_t moved_chunks = 0;    // mapped from elsewhere, because a snapshot was deleted
  uint64_t unmapped_pages = 0;  // of the image, to see whether they are read
  uint64_t huge_chunks = 0;     // that became huge
  // Demotion, or what made chunks huge, was cut short; the epoch is whole all the same.
  std::optional<pcow::Error> demotion_error = std::nullopt;
};

using PageSink = std::function<void(PageRun)>;

enum class PagePlace : uint8_t {
  kHole,   // nowhere: it reads as zeros
  kImage,  // in the image alone
  kDram,   // a copy in DRAM
};

// Pages that are alike.
struct PlacedRun {
  PageRun run;
  PagePlace place = PagePlace::kHole;
  bool dirty = false;   // kDram: the image has no copy of it, at its place in the file
  bool pinned = false;  // kDram

  bool operator==(const PlacedRun&) const = default;
};

// What the next barrier should do. Each ascending, inside the region.
struct Moves {
  std::span<const PageRun> demotions;
  // Chunks of which the image's own pages are to be unmapped, so that mapped_pages() then tells
  // which were read. The first ones, as far as that is for at most so many pages.
  std::span<const pcow::ChunkIndex> watched;
  uint64_t watched_pages_max = 0;
  // Chunks to become huge: one 2 MiB page of DRAM holds all of it, also what the image alone had.
  // A store splits the mapping again, as the price of finding it. At most so many in one barrier,
  // about 50 µs each: more are left out.
  static constexpr size_t kHugeMax = 4;
  std::span<const pcow::ChunkIndex> huge = {};
};

struct WatchedChunk {
  pcow::ChunkIndex chunk;
  uint64_t mapped_pages = 0;  // 0: nothing has to be unmapped
};

// What it is going to do, but for what is stored to before, or pinned then.
struct PreparedMoves {
  std::vector<PageRun> demotions;  // ascending
  uint64_t unstored_pages = 0;     // refused: dirty, or in the log
  // Refused: the chunk has to be mapped from elsewhere, which is not possible now, or has more
  // copies that stay than such that go, or than one barrier should store anew.
  uint64_t unmovable_pages = 0;
  std::vector<WatchedChunk> watched;
  // But for those that hold what is discarded, or find no mapping, or no 2 MiB of DRAM in one
  // piece, or on a kernel that cannot (Linux before 6.8).
  std::vector<pcow::ChunkIndex> huge;
};

struct RegionStatus {
  uint64_t dram_resident_bytes = 0;
  uint64_t dirty_bytes = 0;
  uint64_t hole_chunks = 0;
  uint64_t cached_chunks = 0;
  uint64_t huge_chunks = 0;  // one 2 MiB page of DRAM each
  uint32_t mappings = 0;
  uint32_t mapping_budget = 0;
  TrackerKind tracker = TrackerKind::kPagemapScan;
};

class Region {
 public:
  // Maps the whole image (opened kReadWrite). The image must outlive the region.
  // Errors: kNoMemory (address space or mappings), kPermission (userfaultfd, pagemap),
  // kUnsupported (no way to find dirty pages on this kernel), kInvalid (budget, placement),
  // kCorrupt, kIo.
  static pcow::Result<std::unique_ptr<Region>> map(pcow::Image& image,
                                                   const RegionOptions& options);
  // Unmaps; what was not committed is gone.
  virtual ~Region() = default;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  virtual std::byte* base() const = 0;  // aligned to 1 GiB (2 MiB when smaller than 1 GiB)
  virtual uint64_t size() const = 0;

  // Writes the dirty pages to the image and makes them durable; then, if may_demote, drops DRAM
  // copies until at most dram_size is resident, turning committed holes into cached chunks as far
  // as the mapping budget allows.
  // With kEpoch that is all of an epoch in one call: barrier, commit, checkpoint.
  // REQUIRES: nobody stores into the region meanwhile; for may_demote also: no DMA in flight but to
  // what is pinned (kEpoch).
  // On failure every page that did not reach the image is still dirty. Errors: kNoSpace, kIo,
  // kCorrupt, kNoMemory (only demotion was cut short: the data is committed).
  virtual pcow::Result<CommitReport> commit(bool may_demote) = 0;

  // Gives memory up: it reads as zeros when this returns, and goes on to. Its DRAM goes back, at
  // once where all of a chunk is given up, or the image has nothing there; else when the image
  // shows zeros, too, by way of commit(), or a barrier(). The image gives up what it has there:
  // with kEpoch in the next epoch, before which a crash leaves what the last one had; with
  // kVolatile no later than by the next commit(), and a crash, or a snapshot, finds each page as it
  // was, or zero.
  // Others may store into the region meanwhile; what they store to these pages may be lost. What is
  // under pin() gets zeros and stays where it is. Multiples of 4096.
  // Errors: kInvalid (the range), kNoMemory, kIo, kCorrupt: a part is zero, and the call may be
  // repeated.
  virtual pcow::Result<void> discard(uint64_t offset, uint64_t length) = 0;

  // --- epochs (kEpoch; kInvalid otherwise) ------------------------------------------------------
  //
  //   prepare_demotion(), precopy() …   barrier()        commit_epoch()         checkpoint() …
  //   guest runs                        guest is quiet   guest runs             guest runs
  //
  // Memory as it is at the barrier becomes one epoch. What is stored after the barrier belongs to
  // the next one, which begins when commit_epoch() has succeeded (kInvalid before).

  // A round of copying: logs the pages that were stored to since they were logged last. A page that
  // changes meanwhile is found again. Does nothing where writes cannot be tracked while they happen
  // (soft-dirty). Errors: kNoSpace, kCorrupt, kNoMemory: nothing is lost, what was found is
  // remembered; kIo: the image takes no further writes.
  virtual pcow::Result<PrecopyReport> precopy(const PrecopyStop& stop) = 0;
  pcow::Result<PrecopyReport> precopy() { return precopy(PrecopyStop()); }
  // Chooses about `pages_max` DRAM copies at most that the next barrier drops unless they are
  // stored to before: only clean ones, whose content is at its place in the image. As many as
  // exceed dram_size. Returns how many. Folds chunks when no page was logged since the last commit.
  // Errors: kIo, kCorrupt, kNoMemory.
  virtual pcow::Result<uint64_t> prepare_demotion(uint64_t pages_max) = 0;
  // Logs what is still dirty, applies the prepared demotion, and leaves what the deletion of a
  // snapshot has given up (continue_deletion()). Pages under pin() are copied as
  // they are, stay dirty, and stay where they are.
  // REQUIRES: nobody stores into the region but by way of what is pinned.
  // What does not fit in the log is logged again from the start of the epoch, in a log that grows
  // (Image::restart_epoch()). Errors: kLogFull (it cannot grow so far: the image keeps the last
  // epoch, and nothing of memory is lost), and as precopy(). On any error no mapping was changed.
  virtual pcow::Result<BarrierReport> barrier() = 0;
  // Makes the epoch durable that the last barrier() ended. May be called again unless the error is
  // kIo. Errors: kNoSpace, kIo, kInvalid (no barrier).
  virtual pcow::Result<pcow::Epoch> commit_epoch() = 0;
  // Moves committed pages from the log to their places: Image::checkpoint().
  virtual pcow::Result<pcow::CheckpointReport> checkpoint(uint64_t pages_max) = 0;
  virtual pcow::LogState log_state() const = 0;
  // Between epochs: makes the log twice as large, if an epoch of all pages does not yet fit in a
  // third of it, and returns its size (Image::restart_epoch()). Errors: kInvalid (an epoch is under
  // way), kNoSpace, kIo.
  virtual pcow::Result<uint64_t> grow_log() = 0;

  // Tells that somebody may store to these bytes behind the page table, from before they get at the
  // page until they are done: the kernel for O_DIRECT or io_uring, a device. Pins nest; unpin()
  // takes back one that starts at the same page and is at least as long, the shortest of these.
  // Both wait while a barrier changes mappings. Errors of pin(): kInvalid (outside the region),
  // kNoMemory; of unpin(): kInvalid (not pinned).
  virtual pcow::Result<void> pin(uint64_t offset, uint64_t length) = 0;
  virtual pcow::Result<void> unpin(uint64_t offset, uint64_t length) = 0;

  // --- what a policy sees and moves --------------------------------------------------------------

  // Another limit for commit() and prepare_demotion(); 0: none.
  virtual void set_dram_size(uint64_t bytes) = 0;
  // The chunks of a range that have copies in DRAM, ascending; of other pages of theirs nothing is
  // said. Takes about 25 ns a page, and 200 bytes a chunk. Errors: kInvalid (the range), kIo,
  // kCorrupt, kNoMemory.
  virtual pcow::Result<std::vector<ChunkResidency>> residency(PageRun range) = 0;
  // Of all of the region, as of the last precopy(), barrier() or commit(): takes time for chunks
  // with copies that came or went since the last call, and a 64th of the others. What the host
  // swapped out by itself is told after 64 calls at the latest.
  virtual pcow::Result<std::vector<ChunkResidency>> collected_residency() = 0;
  // Where the pages of a range are. Errors: as residency().
  virtual pcow::Result<std::vector<PlacedRun>> places(PageRun range) = 0;
  // The pages that were found to be stored to since prepare_demotion() or prepare_moves() was
  // called last, ascending; those of promote() are among them.
  virtual void for_each_collected(const PageSink& sink) const = 0;
  // The pages that were discarded since then, but for those that hold something again; ascending.
  // None of them is among those above.
  virtual void for_each_discarded(const PageSink& sink) const = 0;
  // Chunks whose pages may be read straight from the image, from this one on, up to so many.
  virtual std::vector<pcow::ChunkIndex> cached_chunks(pcow::ChunkIndex from, size_t max) const = 0;
  // The image's own pages that are mapped: those that were read since they were unmapped.
  // Errors: kInvalid (the chunk), kPermission, kIo, kNoMemory.
  virtual pcow::Result<void> mapped_pages(pcow::ChunkIndex chunk, const PageSink& sink) = 0;
  // In place of prepare_demotion(): what the next barrier drops is what somebody chose, and not
  // bound by dram_size. kEpoch only. Errors: as prepare_demotion().
  virtual pcow::Result<PreparedMoves> prepare_moves(const Moves& moves) = 0;
  // Copies pages of the image to DRAM; returns how many were given, but for those of holes and
  // those that have just been discarded. The content stays the same, whoever stores there
  // meanwhile, so this may be done at any time (policy_moves.cc). The pages count as dirty until
  // they were compared with the image. Errors: kInvalid (the range), kNoMemory, kIo, kUnsupported
  // (the kernel).
  virtual pcow::Result<uint64_t> promote(PageRun run) = 0;

  // --- snapshots of the image while it is in use ------------------------------------------------
  // While an epoch is under way, between the first page that is logged for it and commit_epoch(),
  // these fail with kInvalid.

  // Keeps what the last commit(), or commit_epoch(), made durable: memory as it was then, whatever
  // was stored since. Image::create_snapshot(); also kInvalid if that commit() failed.
  virtual pcow::Result<void> create_snapshot(std::string_view name) = 0;
  // Image::begin_deletion().
  virtual pcow::Result<void> begin_deletion(std::string_view name) = 0;
  // Image::continue_deletion(). `waits`: for the next barrier(), or commit() that may demote, to
  // map chunks from where their pages lie by now; call it again afterwards.
  virtual pcow::Result<pcow::DeletionReport> continue_deletion(uint64_t pages_max) = 0;
  virtual pcow::Result<std::vector<pcow::SnapshotInfo>> snapshots() const = 0;

  // Before the image is closed: gives back file space that reading holes took up, if any did.
  // Errors: kIo, kNoSpace.
  virtual pcow::Result<void> reclaim() = 0;

  virtual pcow::Result<RegionStatus> status() const = 0;
  // Its dirty_bytes alone, in pages, many times as fast.
  virtual pcow::Result<uint64_t> dirty_pages() const = 0;

  // Applies the attributes all mappings of the region share (see tiering.h).
  virtual pcow::Result<void> apply_attributes() = 0;

 protected:
  Region() = default;
};

}  // namespace tiering
