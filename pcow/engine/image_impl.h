// SPDX-License-Identifier: BSD-3-Clause
//
// The engine behind pcow::Image. Its parts: image_create.cc, image_open.cc (open, recovery, close),
// image_read.cc (look-ups), image_layout.cc (how to map it), image_write.cc (pages in place,
// transactions), image_epoch.cc (pages in the log), image_commit.cc (how that ends),
// image_checkpoint.cc (from the log to their places), image_discard.cc (content that is given up),
// image_resize.cc, image_reclaim.cc (space), image_ahead.cc (before it is needed),
// image_snapshot.cc, image_deletion.cc (deleting them, in steps), image_release.cc (what a deleted
// layer leaves in a GiB), image_scrub.cc (checksums of data), image_rebase.cc (another base),
// image_commit_down.cc (content into the base).
//
// Invariants
//  1. Metadata changes only in transactions: seal, log, then store (RedoLog, MetadataStore).
//  2. Ownership of a page is durable in the log before its data is stored; so a page that is not
//     owned never holds data, and any window may be mapped whole (the zero rule).
//  3. Space for everything a write stores is reserved before its transaction is logged; a full
//     medium is found out while nothing has changed yet.
//  4. After a failed store to the medium the file's metadata may be half-way between two states:
//     `failed_` refuses further writes, and the next open replays the log. What is cached stays
//     that of one state, so that reading goes on. Damaged metadata stops new writes, too
//     (`damaged_`), and marks the image corrupt; what was written before can still be committed,
//     and the image closed.
//  5. A place whose content changes without a transaction (data stored in place, a hole punched)
//     has no lines in the log: replaying them would undo the change. settle_log() comes first.
//  6. While an epoch is under way (image_epoch.cc) its metadata is a transaction of the store that
//     stays open from call to call; no other transaction begins before it is committed or dropped.
//  7. Memory may run out anywhere (std::bad_alloc, which GuardedImage turns into kNoMemory). What
//     must not stay half done then is a transaction or a step of an epoch, which are taken back
//     (with_transaction, log_pages, commit). Stores to the medium throw nothing (Media).
//  8. The thread that makes space (reserve_ahead.h) stands still from the beginning of every
//     transaction to the end of the call.
#pragma once

#include <pcow/image.h>
#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "pcow/engine/allocator.h"
#include "pcow/engine/base_image.h"
#include "pcow/engine/chunk_table.h"
#include "pcow/engine/layer_directory.h"
#include "pcow/engine/logged_pages.h"
#include "pcow/engine/metadata_store.h"
#include "pcow/engine/redo_log.h"
#include "pcow/engine/reserve_ahead.h"
#include "pcow/engine/stripe_set.h"
#include "pcow/engine/superblock_store.h"
#include "pcow/media/media.h"

namespace pcow {

class ImageImpl final : public Image {
 public:
  // `files`: of the chain that are open already; this image and its bases are added. `members`: of
  // a stripe set without its names so far, where the other files are.
  static Result<std::unique_ptr<Image>> open_impl(
      const std::string& path, const OpenOptions& options, OpenFiles& files,
      const std::vector<std::string>* members = nullptr);
  const format::Uuid& uuid() const { return superblocks_.current().uuid; }
  // pcow/scrub.h. REQUIRES: nothing was written since it was opened.
  Result<uint64_t> add_checksums(const Progress& progress);

  Result<void> close() override;
  ImageInfo info() const override;
  uint64_t virtual_size() const override { return virtual_size_; }
  uint32_t file_count() const override { return own_files() + (base_ ? base_->file_count() : 0); }
  MappedFile file(uint32_t index) const override;

  Result<GibLayout> layout(GibIndex gib) const override;
  Result<PageMap> page_map(ChunkIndex chunk) const override;
  Result<void> map(uint64_t start, uint64_t length,
                   const std::function<void(const MapExtent&)>& fn) const override;
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override;

  Result<WriteReport> write_pages(std::span<const PageWrite> pages) override;
  Result<uint64_t> discard(PageIndex first, uint64_t count) override;
  Result<uint64_t> fold(ChunkIndex first, uint64_t count) override;
  Result<Epoch> commit() override;
  Result<void> resize(uint64_t virtual_size, bool shrink) override;
  Result<uint64_t> reclaim_unowned() override;

  Result<LogReport> log_pages(std::span<const PageWrite> pages) override;
  Result<void> restart_epoch(uint64_t log_size) override;
  Result<CheckpointReport> checkpoint(uint64_t pages_max) override;
  Result<PageMap> logged_pages(ChunkIndex chunk) const override;
  LogState log_state() const override;

  Result<std::vector<SnapshotInfo>> snapshots() const override;
  Result<void> create_snapshot(std::string_view name) override;
  Result<void> delete_snapshot(std::string_view name) override;
  Result<void> begin_deletion(std::string_view name) override;
  Result<DeletionReport> continue_deletion(uint64_t pages_max, const SegmentInUse& in_use) override;
  Result<void> apply_snapshot(std::string_view name) override;

  Result<void> rebase(const std::optional<Base>& base, const Progress& progress) override;
  Result<void> set_base(const std::optional<Base>& base) override;
  Result<void> commit_to_base(bool keep_pages, const Progress& progress) override;

 private:
  // Which pages of a chunk some layer owns, and where in the file they are.
  struct ChunkPages {
    PageMap owned;
    std::array<uint64_t, kPagesPerChunk> place{};
  };
  using ChunkMap = std::bitset<kChunksPerSegment>;
  struct WritePlan;
  struct LogPlan;
  class EpochRecords;
  // One GiB of the active layer, to change it.
  struct GibWriter {
    std::optional<ChunkTable> own;    // the layer's own table
    ChunkEntries entries;             // of `own`
    std::optional<ChunkTable> below;  // the table that shows through
  };
  // Who uses a chunk table.
  struct TableUse {
    std::vector<uint64_t> layers;    // places of the records whose layer tables name it
    std::vector<uint64_t> children;  // tables whose parent it is
  };
  struct Release;
  struct MergeCost;
  // A part of a deletion: how many pages may still be moved, or something that takes as long.
  struct DeletionStep {
    // Of something that waits for the medium.
    static constexpr uint64_t kPagesPerTransaction = 32;

    uint64_t left;
    const SegmentInUse& in_use;
    DeletionReport report = {};

    bool spent() const { return left == 0; }
    void take(uint64_t pages) { left -= std::min(left, pages); }
    void take_transaction() { take(kPagesPerTransaction); }
    // Of what has to be done before anything is moved: something is moved in any case.
    void take_preparation(uint64_t pages) { left = std::max<uint64_t>(left, pages + 1) - pages; }
  };
  using Range = std::pair<uint64_t, uint64_t>;  // file offset, length

  ImageImpl(std::unique_ptr<Media> media, SuperblockStore superblocks, StripeSet stripe,
            Access access);
  uint32_t own_files() const { return media_->file().count(); }

  // --- opening (image_open.cc)
  Result<void> load(const OpenOptions& options, bool locked);
  Result<void> heed_mark(const OpenOptions& options);
  void mark_corrupt();
  Result<void> open_base(const OpenOptions& options, OpenFiles& files);
  Result<void> validate_root();
  Result<void> validate_patches() const;
  Result<void> recover();
  Result<void> replay(const LogContent& log);
  Result<void> resume_deletion();
  Result<void> begin_writing(bool new_generation = true);
  Result<void> empty_log_and_mark(uint32_t state, bool new_generation);
  Result<void> empty_log_and_mark(uint32_t state, bool new_generation, uint64_t log_size,
                                  uint64_t log_offset);
  Result<uint64_t> place_of_log(uint64_t log_size);
  Result<void> validate_log_place() const;
  // Invariant 4 for the superblock: one copy may have what the other has not.
  Result<void> update_superblock(const format::Superblock& next);

  // --- reading (image_read.cc)
  Result<const format::RootBlock*> root() const;
  // Runs of what this image holds, by image offset; the rest is the base's, or zero.
  Result<void> map_layers(uint64_t start, uint64_t length,
                          const std::function<void(const MapExtent&)>& fn) const;
  // A run of image space as runs of files.
  void split_at_files(const MapExtent& run, const std::function<void(const MapExtent&)>& fn) const;
  // Where the base ends to show, in the layer that is shown: 0 without one.
  Result<uint64_t> base_end() const;
  Result<void> read_owned(uint64_t file_offset, std::span<std::byte> out) const;
  // Lays logged lines over what was read of the file.
  Result<void> lay_over_logged(uint64_t offset, std::span<std::byte> out) const;
  Result<void> read_logged(uint64_t place, const LoggedPages::Record& record,
                           format::Block& page) const;
  Error base_not_open() const;
  void add_files(ImageInfo& info) const;
  // The layer that is shown: the active one, or the snapshot that was opened.
  Result<uint64_t> layer_place() const;
  Result<format::LayerRecord> layer() const;
  uint64_t image_end() const;
  // What the layer table of `record` holds for a GiB. REQUIRES: its block is there.
  Result<uint64_t> table_entry(const format::LayerRecord& record, GibIndex gib) const;
  // Whether that block is there.
  Result<bool> has_table_block(const format::LayerRecord& record, GibIndex gib) const;
  // The chunk table at an offset that a table or an entry names; none if that is 0.
  Result<std::optional<ChunkTable>> table_at(uint64_t offset, GibIndex gib) const;
  // Where a look-up in a GiB starts.
  Result<std::optional<ChunkTable>> chunk_table(GibIndex gib) const;
  Result<std::optional<ChunkTable>> parent_of(const format::ChunkTableHeader& header, GibIndex gib,
                                              uint64_t& steps) const;
  Result<ChunkMap> owning_chunks(std::optional<ChunkTable> table) const;
  // Adds to `found` what the table, and those it shows, own of the chunk.
  Result<void> look_up(std::optional<ChunkTable> table, ChunkIndex chunk, ChunkPages& found) const;

  // --- how to map it (image_layout.cc)
  Result<void> check_chunks(ChunkIndex first, uint64_t count) const;
  struct GibTable;
  // Where an offset of image space is, and a place of the base, among all files.
  FilePlace in_file(uint64_t offset) const;
  FilePlace beneath(FilePlace place) const;
  std::vector<FilePlace> parts_of_segment(uint64_t segment) const;
  Result<std::vector<GibTable>> tables_of(GibIndex gib) const;
  Result<void> lay_over_base(GibIndex gib, uint64_t count, GibLayout& layout) const;
  Result<GibLayout::Chunk> layout_over(ChunkIndex chunk, const GibLayout::Chunk& own,
                                       const GibLayout::Chunk& below, uint64_t end) const;
  Result<GibLayout::Chunk> layout_of_shared(std::span<const GibTable> tables,
                                            uint64_t in_segment) const;
  Result<uint64_t> fold_chunk(ChunkIndex chunk);

  // --- writing (image_write.cc)
  Result<void> check_open_for_writing() const;
  Result<void> check_writable() const;
  // The active layer's own table of a GiB, made if need be.
  Result<ChunkTable> own_table(GibIndex gib);
  // Gives the writer a table of the active layer. REQUIRES: it has none.
  Result<void> add_own_table(GibIndex gib, GibWriter& writer);
  Result<void> write_batch(std::span<const PageWrite> pages, WriteReport& report);
  Result<void> plan_writes(std::span<const PageWrite> pages, WritePlan& plan);
  Result<void> plan_gib(GibIndex gib, GibWriter& writer) const;
  Result<void> add_base_pages(ChunkIndex chunk, PageMap& pages) const;
  Result<void> plan_chunk(std::span<const PageWrite> pages, GibWriter& writer, WritePlan& plan);
  size_t batch_size(std::span<const PageWrite> pages) const;
  // Inside a transaction: pages more or fewer, of a layer and of the image.
  Result<void> count_pages(uint64_t place, uint64_t added, uint64_t removed);
  // Ends the transaction of the store: log, store, make room in the log when it is half full.
  Result<void> commit_transaction();
  // Stores and makes durable what the log holds, and empties it. REQUIRES: no epoch is under way.
  Result<void> checkpoint_log();
  // Invariant 5, for places of data.
  Result<void> settle_log();
  // The store's transaction is dropped unless commit_transaction() got it into the log.
  Result<void> with_transaction(const std::function<Result<void>()>& body);
  // Inside a transaction: a page of guest data that goes into the log with it.
  void log_data(uint64_t place, std::span<const std::byte> data);

  // What shows through an unowned page of the writer's table.
  Result<ChunkPages> lower_pages(const GibWriter& writer, ChunkIndex chunk) const;
  Result<void> check_pages(std::span<const PageWrite> pages) const;

  // --- discarding (image_discard.cc)
  struct OwnershipChange {
    uint64_t added = 0;  // pages
    uint64_t removed = 0;
  };
  Result<uint64_t> plan_holes(PageIndex first, PageIndex end, std::vector<Range>& holes) const;
  Result<void> make_holes(const std::vector<Range>& holes);
  Result<OwnershipChange> give_up_pages(PageIndex first, PageIndex end);
  Result<uint64_t> discard_step(PageIndex first, PageIndex end);

  // --- epochs (image_epoch.cc)
  bool epoch_under_way() const { return log_.is_open() || store_.changed(); }
  Result<void> check_no_epoch() const;
  Result<void> plan_log_chunk(std::span<const PageWrite> pages, GibWriter& writer, LogPlan& plan);
  Result<void> plan_log(std::span<const PageWrite> pages, LogPlan& plan);
  Result<void> make_room(LogPlan& plan);
  Result<void> declare_filling(const LogPlan& plan);
  Result<void> store_fills(const LogPlan& plan);
  void note_fills(const LogPlan& plan);
  bool is_filled(uint64_t place) const;
  Error log_full() const;
  Result<void> reserve_log(const LogPlan& plan);
  Result<uint64_t> log_plan(const LogPlan& plan, RedoLog::Writer& writer,
                            std::vector<std::pair<uint64_t, LoggedPages::Record>>& records) const;
  Result<LogReport> log_step(std::span<const PageWrite> pages);
  uint64_t commit_bound() const;

  // --- the end of an epoch (image_commit.cc)
  Result<void> commit_step();
  // An epoch that is under way never happened.
  Result<void> drop_epoch();
  void forget_epoch();

  // --- checkpoint (image_checkpoint.cc)
  class PageStorer;
  Result<uint64_t> store_logged(uint64_t pages_max);
  // All that is committed.
  Result<void> store_all_logged();
  Result<void> end_round();
  Result<void> move_tail(uint64_t tail, Epoch epoch);
  // Frees the part of the log in front of the epoch that is under way.
  Result<void> checkpoint_committed();

  // --- resizing (image_resize.cc)
  Result<void> create_layer_tables(uint64_t old_size, uint64_t new_size);
  Result<void> drop_chunks(ChunkIndex first, ChunkIndex end);
  Result<void> note_trim(ChunkIndex first, ChunkIndex end);
  Result<void> set_virtual_size(uint64_t size);
  Result<void> shrink_to(uint64_t new_size);
  Result<void> grow_to(uint64_t new_size);
  Result<void> check_growth(uint64_t new_size) const;
  Result<void> empty_beyond_end();
  Result<void> hide_beyond_end(uint64_t new_size);
  Result<void> release_gibs(GibIndex first, GibIndex end);
  Result<bool> may_trim(const GibWriter& own, ChunkIndex first, ChunkIndex end) const;
  Result<void> finish_trim();
  Result<void> validate_trim() const;

  // --- space (image_reclaim.cc)
  Result<void> empty_unowned(uint64_t window, const PageMap& owned);
  Result<void> empty_log_room(uint64_t begin, uint64_t end, bool with_log);
  using WindowVisitor = std::function<Result<void>(uint64_t offset, const PageMap& owned)>;
  // Calls fn for the windows of a segment. table: of its chunks; 0: nothing in it is owned.
  Result<void> visit_windows(uint64_t segment, uint64_t table, const WindowVisitor& fn) const;
  // Whose pages a transaction can have filled; 0: nobody's. Errors: kCorrupt: it cannot.
  Result<uint64_t> table_of_filled(uint64_t segment) const;
  // Makes what nobody owns in these windows holes.
  Result<void> empty_filled(const std::map<uint64_t, WindowSet>& filling);
  Result<void> reclaim_quarantine();  // all of it
  Result<void> reclaim_quarantine(DeletionStep& step);
  Result<bool> empty_segment(const Allocator::Quarantined& item, DeletionStep& step);
  Result<void> check_quarantined(const Allocator::Quarantined& item) const;

  // --- space ahead of need (image_ahead.cc)
  void start_ahead(uint64_t bytes_max);
  std::optional<ReserveAhead::View> ahead_view(ChunkIndex chunk) const;
  // Space for pages that are about to be stored, in place or by a checkpoint.
  Result<void> reserve_pages(const std::vector<Range>& ranges);
  void note_filled(const std::vector<ChunkIndex>& chunks);
  void pause_ahead() const;
  void resume_ahead();
  // Whether there was any.
  bool give_back_ahead();
  // Runs `body`, and once more after giving back what is reserved ahead if the medium is full.
  Result<void> with_space(const std::function<Result<void>()>& body);

  // --- layers (image_snapshot.cc)
  Result<void> mark_layered();
  Result<uint64_t> find_snapshot(std::string_view name) const;
  Result<uint64_t> add_active_layer(const format::LayerRecord& view, LayerId parent);
  Result<void> show_snapshot(const std::string& name);
  Result<void> validate_layer(const format::LayerRecord& record) const;
  Result<void> mark_deleting(uint64_t place);

  // --- deleting them (image_deletion.cc)
  // Goes on with what a deletion, or a crash of one, left to do, to its end.
  Result<void> finish_deletion();
  Result<void> go_on_with_deletion(DeletionStep& step);
  // Whether all that was there is released.
  Result<bool> release_layer(uint64_t place, DeletionStep& step);
  Result<void> remove_record(uint64_t place);
  // Whether the log is empty now.
  Result<bool> empty_log(DeletionStep& step);

  // --- what a layer leaves (image_release.cc)
  Result<std::map<uint64_t, TableUse>> uses_of(GibIndex gib, uint64_t except) const;
  // The layer at `place` gives up a GiB; whether it has.
  Result<bool> release_gib(uint64_t place, GibIndex gib, DeletionStep& step);
  // A page of the chunk is about to change at that place in its window.
  void forget_copy(uint64_t place);
  Result<void> set_entry(uint64_t place, GibIndex gib, uint64_t table);
  Result<void> leave_layer(const Release& release, uint64_t pages);
  Result<void> drop_table(const Release& release);
  Result<void> pass_table_on(const Release& release, const TableUse& use);
  Result<bool> merge(const Release& release, uint64_t child, DeletionStep& step);
  Result<MergeCost> merge_cost(const Release& release, const ChunkTable& child) const;
  Result<uint64_t> move_chunk(const Release& release, ChunkTable& child,
                              const ChunkEntries& child_entries, uint64_t chunk, uint64_t room);
  Result<bool> move_to_child(const Release& release, ChunkTable& child, uint64_t child_layer,
                             DeletionStep& step);
  Result<void> own_childs_pages(const Release& release, const ChunkTable& child,
                                const ChunkEntries& child_entries, DeletionStep& step);
  Result<void> copy_page(uint64_t from, uint64_t to);
  // Whether all of it is copied.
  Result<bool> copy_childs_data(const Release& release, const ChunkTable& child,
                                const ChunkEntries& child_entries, DeletionStep& step);
  Result<bool> move_to_parent(const Release& release, ChunkTable& child, uint64_t child_layer,
                              DeletionStep& step);

  // --- checksums of what is frozen (image_scrub.cc)
  bool keeps_checksums() const;
  Result<void> begin_checksums();
  Result<uint64_t> add_checksums_of(const ChunkTable& table);
  Result<uint32_t> data_crc(const format::ChunkEntry& entry, const PageMap& owned) const;
  Result<void> for_each_frozen_table(
      const std::function<Result<void>(const ChunkTable&)>& visit) const;
  Result<void> drop_checksums(const ChunkTable& table);

  // --- another base (image_rebase.cc)
  Result<void> keep_chunk(uint64_t start, const std::vector<bool>& candidates, const BaseView& now,
                          const BaseView& next);
  Result<void> keep_content(const BaseView& now, const BaseView& next, const Progress& progress);
  Result<format::BaseReference> new_reference(const std::optional<Base>& base) const;
  Result<void> store_reference(const format::BaseReference& reference);

  // --- content into the base (image_commit_down.cc)
  Result<void> check_commit_down() const;
  Result<void> write_down(BaseImage& base, const Progress& progress);
  Result<void> write_run_down(const MapExtent& run, const BaseView& shown, BaseImage& base);
  Result<void> drop_below(uint64_t end);

  std::unique_ptr<Media> media_;
  std::unique_ptr<ReserveAhead> ahead_;  // none: nothing is reserved ahead
  SuperblockStore superblocks_;
  StripeSet stripe_;
  Access access_;
  const std::vector<MappedFile> mapped_;  // its own files
  mutable MetadataStore store_;           // a cache: reading through it does not change the image
  RedoLog log_;
  Allocator allocator_;
  LayerDirectory layers_;
  BaseAccess base_access_ = BaseAccess::kRefuse;
  std::unique_ptr<BaseImage> base_;         // none: there is none, or it is ignored
  const BaseView* next_base_ = nullptr;     // while rebase() writes what it would show otherwise
  std::optional<uint64_t> snapshot_place_;  // opened to show a snapshot
  uint64_t virtual_size_ = 0;
  Epoch durable_epoch_;
  bool was_clean_ = true;
  bool recovered_ = false;
  bool writing_ = false;  // marked open for writing
  bool closed_ = false;
  bool failed_ = false;
  bool damaged_ = false;  // damaged metadata was met: marked corrupt, no new writes
  bool written_since_commit_ = false;
  bool log_holds_data_ = false;  // lines of windows
  std::vector<std::string> warnings_;
  LoggedPages logged_;
  // Of the epoch under way: windows that the log says are being filled, by segment; and pages that
  // were, by window.
  std::map<uint64_t, WindowSet> filling_;
  std::map<uint64_t, PageMap> filled_;

  // The round of checkpoints that has begun: pages in front of `next` are stored.
  struct Round {
    uint64_t next = 0;   // image offset
    uint64_t limit = 0;  // LSN: the log in front of it is not needed when all are stored
    Epoch epoch;         // committed when the round began
  };
  std::optional<Round> round_;
  RecoveryReport recovery_;

  // Of the deletion under way. What is lost of it by a crash is done again.
  GibIndex deletion_next_{0};  // the layer has given up the GiBs in front of it
  // Two tables that become one (image_release.cc).
  struct Merging {
    uint64_t table;  // the chunk tables
    uint64_t child;
    bool to_child;
    uint64_t segment = 0;                     // the child's
    uint64_t copied_ever = 0;                 // pages, those that were copied again as well
    std::map<uint64_t, PageMap> copied = {};  // of windows of the child: equal in T's
  };
  std::optional<Merging> merging_;
  // A segment in quarantine, and the windows of it that are empty.
  std::optional<std::pair<SegmentIndex, uint64_t>> emptying_;
};

}  // namespace pcow
