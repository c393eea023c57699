// SPDX-License-Identifier: BSD-3-Clause
//
// The region of region.h. region.cc: mapping and attributes; commit.cc: writing dirty pages;
// demotion.cc: dropping DRAM copies; epoch.cc and epoch_demotion.cc: the same with epochs;
// policy_moves.cc: what a policy sees and moves; snapshots.cc: of the image while it is mapped;
// discard.cc: memory that is given up; huge.cc: chunks in one 2 MiB page of DRAM.
//
// Invariants, between calls:
//   I1  A page that the image owns is in the file behind the chunk's mapping, or it has a private
//       copy, present or swapped out. (The mapping of a cached chunk may be older than the image's
//       window, when a snapshot was taken or deleted in between: snapshots.cc; that of a hole has
//       nothing behind it.) Or it is in `discarded_`, and zero, whatever the image has.
//   I2  A private copy that is armed and not in `pending_` or `candidates_` equals the image's
//       page.
//   I3  `pending_` and `candidates_` together hold every page that was armed before the image was
//       known to hold it durably. Every page in `pending_` is a private copy.
//   I4  The boundaries in `chunks_` are a superset of the kernel's.
// I2 and I3 make a store survive any failure of commit(): a page leaves the dirty state of the page
// table only by way of these sets, and leaves `pending_` only after Image::commit() succeeded.
#pragma once

#include <tiering/region.h>
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "tiering/address_space.h"
#include "tiering/chunk_map.h"
#include "tiering/dirty_tracker.h"
#include "tiering/huge_stage.h"
#include "tiering/memory_checked.h"
#include "tiering/page_set.h"
#include "tiering/pin_table.h"
#include "tiering/read_sampler.h"
#include "tiering/residency_cache.h"

namespace tiering {

class RegionImpl final : public Region {
 public:
  RegionImpl(pcow::Image& image, const RegionOptions& options,
             std::unique_ptr<DirtyTracker> tracker, ChunkMap chunks, AddressSpace space);

  // Maps the cached chunks of the plan. Part of Region::map().
  pcow::Result<void> map_planned();

  std::byte* base() const override { return space_.base(); }
  uint64_t size() const override { return space_.size(); }
  pcow::Result<CommitReport> commit(bool may_demote) override;
  pcow::Result<void> reclaim() override;
  pcow::Result<RegionStatus> status() const override;
  pcow::Result<uint64_t> dirty_pages() const override;
  pcow::Result<void> apply_attributes() override;
  pcow::Result<void> discard(uint64_t offset, uint64_t length) override;
  pcow::Result<PrecopyReport> precopy(const PrecopyStop& stop) override;
  pcow::Result<uint64_t> prepare_demotion(uint64_t pages_max) override;
  pcow::Result<BarrierReport> barrier() override;
  pcow::Result<pcow::Epoch> commit_epoch() override;
  pcow::Result<pcow::CheckpointReport> checkpoint(uint64_t pages_max) override;
  pcow::Result<uint64_t> grow_log() override;
  pcow::LogState log_state() const override { return image_.log_state(); }
  void set_dram_size(uint64_t bytes) override { dram_size_ = bytes; }
  pcow::Result<std::vector<ChunkResidency>> residency(PageRun range) override;
  pcow::Result<std::vector<ChunkResidency>> collected_residency() override;
  pcow::Result<std::vector<PlacedRun>> places(PageRun range) override;
  void for_each_collected(const PageSink& sink) const override;
  void for_each_discarded(const PageSink& sink) const override;
  std::vector<pcow::ChunkIndex> cached_chunks(pcow::ChunkIndex from, size_t max) const override;
  pcow::Result<void> mapped_pages(pcow::ChunkIndex chunk, const PageSink& sink) override;
  pcow::Result<PreparedMoves> prepare_moves(const Moves& moves) override;
  pcow::Result<uint64_t> promote(PageRun run) override;
  pcow::Result<void> create_snapshot(std::string_view name) override;
  pcow::Result<void> begin_deletion(std::string_view name) override;
  pcow::Result<pcow::DeletionReport> continue_deletion(uint64_t pages_max) override;
  pcow::Result<std::vector<pcow::SnapshotInfo>> snapshots() const override {
    return image_.snapshots();
  }
  pcow::Result<void> pin(uint64_t offset, uint64_t length) override;
  pcow::Result<void> unpin(uint64_t offset, uint64_t length) override;

 private:
  // What demotion has to know of one GiB.
  struct ChunkView {
    uint32_t resident = 0;         // private copies in DRAM
    bool dirty = false;            // some page is dirty: the chunk's mapping may not change
    pcow::GibLayout::Chunk place;  // in the image
    uint32_t first_run = 0;        // its clean copies: runs[first_run, first_run + run_count)
    uint32_t run_count = 0;
  };
  struct GibView {
    std::array<ChunkView, pcow::kChunksPerSegment> chunks;
    std::vector<AddressRange> runs;
    uint64_t resident = 0;
    bool dirty = false;

    uint64_t resident_in(ChunkRun run) const;  // REQUIRES: inside the GiB
  };
  struct WindowRun {
    ChunkRun run;
    pcow::FilePlace place;
  };
  // What one GiB can give, picked up by pick() and carried out by demote_gib().
  struct Demotion {
    std::vector<AddressRange> drops;     // private copies whose image page shows through, or zeros
    std::vector<WindowRun> conversions;  // chunks to map from their windows
    std::vector<pcow::ChunkIndex> shared;  // chunks to copy together first
    uint64_t pages = 0;                    // DRAM copies in all of them
    pcow::ChunkIndex next_hand;
  };

  // What the next barrier drops, but for what is stored to before (epoch_demotion.cc).
  struct PlannedConversion {
    ChunkRun run;  // a chunk, or a whole GiB
    pcow::FilePlace place;
    uint64_t pages;  // copies in it
  };
  // What a policy wants to leave DRAM, of one chunk.
  struct ChosenPages {
    pcow::ChunkIndex chunk;
    pcow::PageMap pages;
  };
  // A chunk that is mapped from its window for the sake of some of its copies.
  struct PartialConversion {
    ChosenPages going;
    pcow::PageMap unstored;  // not at their place when that was planned
    pcow::FilePlace place;
  };
  // A chunk that becomes huge (huge.cc).
  struct PlannedHuge {
    pcow::ChunkIndex chunk;
    HugeStage stage;
  };
  struct DemotionPlan {
    std::vector<PageRun> drops;
    std::vector<PlannedConversion> conversions;
    std::vector<PartialConversion> partial;
    uint64_t pages = 0;             // of these three
    std::vector<PageRun> unmapped;  // pages of the image that are to show whether they are read
    std::vector<PlannedHuge> huge;

    bool empty() const { return pages == 0 && unmapped.empty() && huge.empty(); }
    void drop(pcow::PageIndex page) {
      ++pages;
      add_page(drops, page);
    }
  };

  // What becomes of memory that is given up (discard.cc).
  struct Discard {
    std::vector<ChunkRun> holes;
    std::vector<PageRun> drops;
    std::vector<PageRun> zeros;
    std::vector<PageRun> pinned;
  };

  enum class Conversion { kNone, kRun, kWholeGib };

  AddressRange whole() const { return {space_.base(), space_.size()}; }
  AddressRange range_of(ChunkRun run) const;
  pcow::PageIndex page_at(const std::byte* address) const;

  // region.cc
  pcow::Result<void> apply_attributes_to(ChunkRun run, kernel::HugePages huge);
  pcow::Result<void> map_windows(ChunkRun run, pcow::FilePlace place);
  pcow::Result<void> map_cached(ChunkRun run, pcow::FilePlace place);
  pcow::Result<void> give_attributes(ChunkRun run, kernel::HugePages huge);
  pcow::Result<uint64_t> count_resident();  // as of the last collect
  uint64_t remembered_pages() const;        // pending_ or candidates_
  uint64_t remembered_in(AddressRange run) const;
  // Private copies, which equal the image's page.
  pcow::Result<void> drop_copies(std::span<const AddressRange> ranges);
  void copies_changed(AddressRange range);

  pcow::Result<void> set_attributes();
  pcow::Result<RegionStatus> look() const;

  // commit.cc
  pcow::Result<CommitReport> commit_steps(bool may_demote);
  pcow::Result<uint64_t> collect_dirty();  // pages that the tracker reported
  pcow::Result<void> sort_candidates();
  pcow::Result<void> take_changed(pcow::PageIndex first, uint64_t count);
  pcow::Result<void> write_pending(CommitReport& report);
  pcow::Result<void> reclaim_beyond(uint64_t step);

  // Chunks that one barrier maps for some of their copies, and the others, which it stores anew:
  // about 40 µs and 4 µs each.
  static constexpr uint64_t kPartialMax = 16;
  static constexpr uint64_t kStoredAnewMax = 128;

  // demotion.cc
  pcow::Result<uint64_t> demote();
  // `dropped` counts the pages that went.
  pcow::Result<void> demote_gib(pcow::ChunkIndex from, uint64_t wanted, uint64_t& dropped);
  pcow::Result<GibView> view_gib(pcow::GibIndex gib);
  // Asks the image where the chunks are.
  pcow::Result<void> place_chunks(pcow::GibIndex gib, GibView& view);
  // Whether what the mapping shows beneath private copies is what the image has there.
  bool shows_image(pcow::ChunkIndex chunk, const ChunkView& view) const;
  static void add_conversion(std::vector<WindowRun>& runs, pcow::ChunkIndex chunk,
                             pcow::FilePlace window);
  Demotion pick(const GibView& view, pcow::ChunkIndex from, uint64_t wanted, bool may_fold) const;
  pcow::Result<bool> fold(ChunkRun run);
  pcow::Result<bool> collapse(pcow::GibIndex gib, const GibView& view);
  pcow::Result<Conversion> convert(const GibView& view, WindowRun run, uint64_t& dropped);
  pcow::Result<bool> make_room(WindowRun run, uint64_t& dropped);
  pcow::Result<void> resync_mappings();

  // discard.cc
  pcow::Result<void> discard_pages(PageRun run);
  pcow::Result<Discard> plan_discard(PageRun run) const;
  static Discard without_pinned(const Discard& plan, const PageSet& pinned);
  pcow::Result<pcow::PageMap> empty_pages(pcow::ChunkIndex chunk) const;
  pcow::Result<void> carry_out(const Discard& plan);
  void note_discarded(PageRun run);
  pcow::Result<void> map_holes(ChunkRun run);
  void store_zeros(PageRun run);
  void tell_discards_apart(PageRun run);
  void forget_stored_discards();
  pcow::Result<void> write_discarded();
  pcow::Result<bool> log_discarded(uint64_t room_kept, uint64_t& logged_bytes);
  pcow::Result<std::vector<pcow::PageIndex>> spare_zero_copies();
  pcow::Result<uint64_t> drop_zero_copies();

  // epoch.cc
  static constexpr uint64_t kReclaimStep = 64 * pcow::kMiB;
  pcow::Result<void> check_epoch(bool sealed) const;
  pcow::Result<uint64_t> collect_epoch(PinTable::Take pins, uint64_t& pinned);
  pcow::Result<bool> log_pending(uint64_t room_kept, const PrecopyStop& stop,
                                 uint64_t& logged_bytes);
  pcow::Result<void> log_all(BarrierReport& report);
  pcow::Result<void> restart_epoch();
  pcow::Result<CommitReport> commit_whole_epoch(bool may_demote);
  pcow::Result<PageRun> pages_of(uint64_t offset, uint64_t length) const;

  // epoch_demotion.cc
  void begin_plan();
  pcow::Result<void> plan_zero_copies();
  pcow::Result<void> resync_before_planning();
  uint64_t free_to_go(std::span<const PageRun> runs, const PageSet& pinned,
                      std::vector<AddressRange>& ranges) const;
  pcow::Result<pcow::PageMap> unstored_pages(pcow::ChunkIndex chunk) const;
  pcow::Result<void> fold_for_plan(pcow::ChunkIndex from, GibView& view);
  pcow::Result<void> plan_gib(pcow::ChunkIndex from, uint64_t wanted);
  void plan_drops(pcow::ChunkIndex chunk, const GibView& view, const pcow::PageMap& unstored,
                  uint64_t wanted);
  bool fits_in_budget(pcow::ChunkIndex chunk, pcow::FilePlace window) const;
  pcow::Result<void> plan_whole_gib(pcow::GibIndex gib, const GibView& view);
  bool has_to_stay(pcow::PageIndex page, const PageSet& pinned) const;
  bool has_to_stay(ChunkRun run, const PageSet& pinned) const;
  pcow::Result<void> apply_demotion(BarrierReport& report);
  pcow::Result<pcow::PageMap> copies_to_keep(const PartialConversion& planned) const;
  pcow::Result<uint64_t> convert_partly(const PartialConversion& planned, const PageSet& pinned,
                                        uint64_t& copies_left);
  pcow::Result<void> map_with_copies(const PartialConversion& planned, const pcow::PageMap& kept);
  pcow::Result<void> apply_plan(const DemotionPlan& plan, const PageSet& pinned,
                                BarrierReport& report);

  // policy_moves.cc
  pcow::Result<PageRun> inside(PageRun run) const;
  pcow::Result<ReadSampler*> sampler();
  pcow::Result<void> mark_unstored(std::vector<ChunkResidency>& chunks) const;
  pcow::Result<void> mark_bound(std::vector<ChunkResidency>& chunks);
  pcow::Result<void> look_at_copies(AddressRange range, std::vector<ChunkResidency>& chunks) const;
  pcow::Result<std::span<const ChunkResidency>> refresh_residency();
  void add_beneath(std::vector<PlacedRun>& runs, PageRun run, bool data) const;
  static std::vector<ChosenPages> by_chunk(std::span<const PageRun> runs);
  pcow::Result<void> fold_chosen(std::span<const ChosenPages> chosen, GibView& view);
  bool plan_partly(const ChosenPages& going, const pcow::PageMap& unstored, const ChunkView& chunk,
                   uint64_t& stored_anew);
  pcow::Result<void> plan_chosen(std::span<const ChosenPages> chosen, PreparedMoves& prepared,
                                 uint64_t& stored_anew);
  pcow::Result<void> plan_unmapping(const Moves& moves, PreparedMoves& prepared);
  pcow::Result<uint64_t> copy_to_dram(PageRun run);
  void forget_unchanged_copies();

  // huge.cc
  pcow::Result<void> plan_huge(std::span<const pcow::ChunkIndex> wanted, PreparedMoves& prepared);
  bool may_be_huge(pcow::ChunkIndex chunk, const PageSet& pinned) const;
  pcow::Result<HugeStage> stage_chunk(pcow::ChunkIndex chunk);
  pcow::Result<void> copy_chunk(pcow::ChunkIndex chunk, std::byte* to);
  pcow::Result<void> apply_huge(std::span<const PlannedHuge> planned, const PageSet& pinned,
                                BarrierReport& report);
  pcow::Result<void> exchange_for_huge(const PlannedHuge& huge);
  pcow::Result<void> map_huge(const PlannedHuge& huge);

  // snapshots.cc
  pcow::Result<void> check_between_epochs() const;
  bool maps(pcow::ChunkIndex chunk, const std::vector<pcow::FilePlace>& segment) const;
  std::optional<pcow::GibIndex> gib_mapped_from(const std::vector<pcow::FilePlace>& segment) const;
  pcow::Result<uint64_t> leave_given_up();
  pcow::Result<uint64_t> leave_segment(const std::vector<pcow::FilePlace>& segment,
                                       pcow::GibIndex gib, uint64_t& copies_left);
  pcow::Result<bool> may_leave(pcow::ChunkIndex chunk, const ChunkView& view) const;
  pcow::Result<void> map_copy(pcow::ChunkIndex chunk, bool zero);

  pcow::Image& image_;
  const RegionOptions options_;
  const std::unique_ptr<DirtyTracker> tracker_;
  std::optional<ReadSampler> sampler_;  // once somebody asks what is read
  uint64_t dram_size_;
  ChunkMap chunks_;
  ResidencyCache residency_;
  AddressSpace space_;
  PageSet pending_;                 // to be written
  PageSet candidates_;              // to be compared with the image; empty unless compare_
  PageSet discarded_;               // zero, which the image is to be told (discard.cc)
  PageSet zero_copies_;             // copies of zeros that the image need not have in DRAM
  bool compare_;                    // the tracker may report clean pages
  bool attributes_stale_ = false;   // a change of mappings was cut short
  bool rearm_due_ = false;          // chunks were mapped since the tracker was armed
  pcow::ChunkIndex hand_;           // where demotion goes on
  uint64_t reclaim_floor_ = 0;      // file space beyond the owned pages after the last reclaim
  bool crash_reclaim_due_ = false;  // the session before this one may have left such space
  std::vector<std::byte> scratch_;

  // With epochs.
  PinTable pins_;                 // thread-safe
  PageSet in_epoch_;              // what was logged since the last commit
  PageSet stored_since_plan_;     // what was collected, or discarded, since plan_ was begun
  PageSet discarded_since_plan_;  // of these what was discarded, and holds nothing since
  PageSet copied_;                // copied from the image, and not collected since
  DemotionPlan plan_;
  std::vector<PlannedHuge> spent_;  // what is left of them, to be unmapped while the guest runs
  // Segments that the image has given up and that are mapped: what continue_deletion() waits for.
  std::vector<std::vector<pcow::FilePlace>> given_up_;
  bool leaving_ = false;     // the next barrier may do something about them
  bool epoch_open_ = false;  // pages may have been logged since the last commit
  bool sealed_ = false;      // a barrier is waiting for its commit_epoch()
};

// What the tracker of a region on this image has to reckon with.
Backing backing_of(const pcow::Image& image);

// Region::map() with a tracker of the caller's choice; a test passes one that lacks some care.
// REQUIRES: valid options. Throws std::bad_alloc. Errors: as Region::map().
pcow::Result<std::unique_ptr<Region>> map_region(pcow::Image& image, const RegionOptions& options,
                                                 std::unique_ptr<DirtyTracker> tracker);

}  // namespace tiering
