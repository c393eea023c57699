// SPDX-License-Identifier: BSD-3-Clause
//
// Deleting a snapshot, in steps, between which the image may be used, and mapped.
//
//   begin      frozen ──► deleting       one transaction
//   continue   deleting ──► gone         GiB by GiB (image_release.cc), then the record
//              quarantined ──► free      segment by segment (image_reclaim.cc)
//
// A crash, or an error, after the first leaves a layer that is being deleted, which nobody sees:
// the root names its record, and its layer table what is left to do. There is never more than one.
// What is remembered besides (`deletion_next_`, `merging_`, `emptying_`) saves doing things again.
//
// Who maps windows privately, and goes on writing, has a copy of every page that was written since
// it was mapped. Call a mapping of a window *right* for a page of its chunk that was not: it shows
// the page's content. What layout() names is right, because it names a window only if no layer owns
// a page of the chunk elsewhere that shows and is not zero (a copy that fold() makes later has
// the same content as what it hides). Steps leave right what is right:
//   M1  Pages that move from a table T to its child C are stored to places that C does not own. A
//       mapping of C's window that is right there shows zeros. If the page shows through C, then
//       what T has of it is zeros, too. If a newer layer hides it, that was written after the
//       window was mapped, or is a copy of what T has, which is then zeros.
//   M2  Pages that move from C to T are stored to places where C hides what T has. A mapping of
//       T's window that is right there was made before C owned the page. So the page was written
//       since, or what C has is a copy of what T has.
//   M3  Everything else changes tables, which a mapping does not look at.
//   M4  Nobody stores into a segment in quarantine until it is emptied, and that waits until
//       `in_use` denies that it is mapped. Nobody gets it before it is empty.
#include <limits>

#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BlockType;
using format::LayerRecord;

namespace {

const SegmentInUse kNotMapped;

}  // namespace

Result<void> ImageImpl::delete_snapshot(std::string_view name) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  PCOW_TRY(find_snapshot(name));
  PCOW_TRY(finish_deletion());
  PCOW_TRY(begin_deletion(name));
  return finish_deletion();
}

Result<void> ImageImpl::begin_deletion(std::string_view name) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  PCOW_TRY_ASSIGN(const uint64_t place, find_snapshot(name));
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  if (root_block->deleting_record != 0) {
    return make_error(Code::kBusy, "another snapshot of '" + media_->file().path() +
                                       "' is being deleted: try again when that is done");
  }
  const auto change = [&]() -> Result<void> {
    PCOW_TRY(mark_deleting(place));
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  resume_ahead();
  return {};
}

Result<DeletionReport> ImageImpl::continue_deletion(uint64_t pages_max,
                                                    const SegmentInUse& in_use) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  DeletionStep step{std::max<uint64_t>(pages_max, 1), in_use};
  PCOW_TRY(go_on_with_deletion(step));
  resume_ahead();
  return step.report;
}

Result<void> ImageImpl::finish_deletion() {
  DeletionStep step{std::numeric_limits<uint64_t>::max(), kNotMapped};
  PCOW_TRY(go_on_with_deletion(step));
  return settle_log();
}

Result<bool> ImageImpl::empty_log(DeletionStep& step) {
  for (uint64_t stored = 0; log_.closed_end() != log_.position().tail;) {
    if (stored >= step.left) return false;
    PCOW_TRY_ASSIGN(const CheckpointReport report, checkpoint(step.left - stored));
    stored += report.stored_pages;
    if (report.done) step.take_preparation(DeletionStep::kPagesPerTransaction);
  }
  pause_ahead();  // checkpoint() has resumed it
  return true;
}

Result<void> ImageImpl::go_on_with_deletion(DeletionStep& step) {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  if (const uint64_t place = root_block->deleting_record; place != 0) {
    give_back_ahead();
    PCOW_TRY(begin_writing());
    // Pages are moved: from their places, where the log's have to be.
    if (log_holds_data_) {
      PCOW_TRY_ASSIGN(const bool empty, empty_log(step));
      if (!empty) return {};
    }
    PCOW_TRY_ASSIGN(const bool released, release_layer(place, step));
    if (!released) return {};
    PCOW_TRY(remove_record(place));
    deletion_next_ = GibIndex(0);
    step.take_transaction();
  }
  return reclaim_quarantine(step);
}

Result<bool> ImageImpl::release_layer(uint64_t place, DeletionStep& step) {
  PCOW_TRY_ASSIGN(const LayerRecord gone, layers_.read(place));
  PCOW_TRY(validate_layer(gone));  // its slots are going to be emptied
  const Media::CopyScope scope(*media_);
  constexpr uint64_t kGibsMax = format::kLayerTableSlots * format::kGibsPerSlot;
  while (deletion_next_.value < kGibsMax) {
    if (step.spent()) return false;
    PCOW_TRY_ASSIGN(const bool there, has_table_block(gone, deletion_next_));
    if (!there) {
      deletion_next_ = GibIndex(round_up(deletion_next_.value + 1, format::kGibsPerBlock));
      continue;
    }
    PCOW_TRY_ASSIGN(const bool released, release_gib(place, deletion_next_, step));
    if (!released) return false;
    ++deletion_next_;
  }
  return true;
}

// The layer's tables are released: its record goes, and the slots of its layer table. These are
// zeroed through the log, so that nothing else has to be known of them after a crash; then they are
// holes as soon as the medium is told.
Result<void> ImageImpl::remove_record(uint64_t place) {
  PCOW_TRY_ASSIGN(const LayerRecord gone, layers_.read(place));
  const auto change = [&]() -> Result<void> {
    for (const uint64_t slot : gone.tables) {
      for (uint64_t at = slot; slot != 0 && at < slot + format::kSlotSize;
           at += format::kBlockSize) {
        PCOW_TRY(store_.erase_page(at));
      }
      if (slot != 0) PCOW_TRY(allocator_.free_slot(slot));
    }
    PCOW_TRY_ASSIGN(LayerRecord * record, layers_.modify(place));
    *record = LayerRecord{};
    PCOW_TRY_ASSIGN(format::Block * root_block,
                    store_.modify_block(format::kRootOffset, BlockType::kRoot));
    auto& root_ref = root_block->as<format::RootBlock>();
    root_ref.deleting_record = 0;
    root_ref.layer_count = root_ref.layer_count - 1;
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  for (const uint64_t slot : gone.tables) {
    if (slot == 0) continue;
    store_.forget(slot, format::kSlotSize);
    PCOW_TRY(media_->file().punch(slot, format::kSlotSize));
  }
  return {};
}

}  // namespace pcow
