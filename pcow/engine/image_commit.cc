// SPDX-License-Identifier: BSD-3-Clause
//
// How an epoch ends: it is committed, or dropped, or it begins again in a larger log. What a commit
// needs was taken before, by image_epoch.cc.
#include <algorithm>
#include <string>
#include <utility>

#include "pcow/base/no_memory.h"
#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BlockType;

// The last step of an epoch: what failed before the log was touched may be tried again.
Result<void> ImageImpl::commit_step() {
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  auto& root_ref = block->as<format::RootBlock>();
  root_ref.committed_epoch = root_ref.committed_epoch + 1;
  const std::vector<RedoLog::Change> changes = store_.seal_changes();
  PCOW_TRY(log_.reserve(std::min(RedoLog::size_bound(changes), log_.free_bytes())));
  PCOW_TRY(store_.reserve_places());
  // The data, before the record that vouches for it. What a failing flush left out stays out.
  Result<void> result = media_->flush();
  if (result) result = log_.append(changes, durable_epoch_ + 1);
  if (result) {
    store_.keep_step();
    result = store_.checkpoint(changes);
  }
  if (!result) failed_ = true;
  return result;
}

Result<Epoch> ImageImpl::commit() {
  PCOW_TRY(check_open_for_writing());
  if (epoch_under_way()) {
    const auto step = [&]() -> Result<void> {
      store_.begin_step();
      Result<void> result = memory_checked(media_->file().path(), [&] { return commit_step(); });
      if (!result && !failed_) store_.undo_step();
      return result;
    };
    PCOW_TRY(with_space(step));
    log_holds_data_ |= !logged_.empty();
    logged_.commit();
    filling_.clear();
    filled_.clear();
  } else if (written_since_commit_) {
    PCOW_TRY(media_->flush());  // the data, before the record that vouches for it
    const auto next_epoch = [&]() -> Result<void> {
      PCOW_TRY_ASSIGN(format::Block * block,
                      store_.modify_block(format::kRootOffset, BlockType::kRoot));
      auto& root_ref = block->as<format::RootBlock>();
      root_ref.committed_epoch = root_ref.committed_epoch + 1;
      return commit_transaction();
    };
    PCOW_TRY(with_space([&] { return with_transaction(next_epoch); }));
  } else {
    return durable_epoch_;
  }
  durable_epoch_ = durable_epoch_ + 1;
  written_since_commit_ = false;
  resume_ahead();
  return durable_epoch_;
}

void ImageImpl::forget_epoch() {
  store_.abort();
  allocator_.forget();
  logged_.discard();
  log_.discard_open();
  filled_.clear();
}

Result<void> ImageImpl::drop_epoch() {
  if (!epoch_under_way()) return {};
  forget_epoch();
  Result<void> result = empty_filled(std::exchange(filling_, {}));
  // Its records are in front of the next transaction's (RedoLog, invariant 4).
  if (result) result = media_->flush();
  if (!result) failed_ = true;
  return result;
}

// Where a log of that size is. Beyond the first segment it has room for the largest.
Result<uint64_t> ImageImpl::place_of_log(uint64_t log_size) {
  const uint64_t now = log_.position().offset;
  if (now >= kSegmentSize || log_size <= kSegmentSize - now) return now;
  uint64_t place = 0;
  const auto take = [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(const SegmentIndex first, allocator_.take_log_segments());
    place = first.value * kSegmentSize;
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(take));
  return place;
}

// The ring of an empty log may be elsewhere: the superblock says so together with the generation
// that makes its old records void.
Result<void> ImageImpl::restart_epoch(uint64_t log_size) {
  PCOW_TRY(check_writable());
  const LogState log = log_state();
  if (log_size < log.size || log_size > log.size_max || log_size % kWindowSize != 0) {
    return make_error(Code::kInvalid, "the log of '" + media_->file().path() + "' cannot have " +
                                          std::to_string(log_size) + " bytes: give a multiple of " +
                                          "2M, from " + format_size(log.size) + " to " +
                                          format_size(log.size_max));
  }
  PCOW_TRY(begin_writing());
  give_back_ahead();
  PCOW_TRY(drop_epoch());
  const LogPosition old = log_.position();
  const Result<uint64_t> place = place_of_log(log_size);
  if (!place) {
    resume_ahead();
    return place.error();
  }
  Result<void> result = store_all_logged();
  if (result) {
    result = empty_log_and_mark(superblocks_.current().state, false, log_size, *place);
  }
  if (!result) failed_ = true;
  // What it took is free again; if that fails, a check can give it back.
  if (result && *place != old.offset) (void)media_->file().punch(old.offset, old.size);
  resume_ahead();
  return result;
}

}  // namespace pcow
