// SPDX-License-Identifier: BSD-3-Clause
//
// Checkpoint: from the log to the windows. Rounds, each in as many calls as the caller likes:
//
//   begin    limit := the end of the last committed transaction
//   store    every page that has a committed record, in the order of their places: its newest
//            committed record, which may be younger than the round
//   end      flush; log_tail := limit, durably
//
// Why the tail may move. A record in front of the limit is of metadata, which commit_transaction()
// stored, or of a page that was met: the newest committed record of that page was stored, and it
// holds every line of the older ones (LoggedPages, invariant 1). A page that was met before it got
// a record got one behind the limit. The flush makes all of it durable before the tail moves.
//
// Why what is stored is right, whenever a crash comes. Only committed records are stored, and the
// log has them until the flush: recovery stores them again, and younger ones over them, in order.
#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "pcow/engine/image_impl.h"

namespace pcow {

namespace {
constexpr size_t kStoredAtOnce = 64;
// Behind all places.
constexpr uint64_t kEnd = std::numeric_limits<uint64_t>::max();

uint64_t runs_of_lines(uint64_t mask) {
  return static_cast<uint64_t>(std::popcount(mask & ~(mask << 1)));
}
}  // namespace

// Stores pages from the log, those that lie side by side in one piece.
class ImageImpl::PageStorer {
 public:
  explicit PageStorer(ImageImpl& image) : image_(&image), run_(kStoredAtOnce) {}

  Result<void> store(uint64_t place, const LoggedPages::Page& page) {
    const LoggedPages::Record& record = page.committed;
    // Not when a page is about to be stored there: it would find no space.
    if (record.zero && (page.open.mask == 0 || page.open.zero)) {
      PCOW_TRY(store_run());
      return punch(place);
    }
    PCOW_TRY(punch_holes());
    // One page in a piece may be cheaper than its lines one by one.
    const bool complete = record.mask == kAllLines;
    const bool merge = !complete && runs_of_lines(record.mask) > image_->media_->line_runs_max();
    const bool whole = merge || complete;
    const bool joins =
        whole && count_ > 0 && count_ < run_.size() && place == first_ + count_ * kPageSize;
    if (!joins) PCOW_TRY(store_run());
    format::Block& content = run_[count_];
    if (merge) {
      PCOW_TRY_ASSIGN(const std::span<const std::byte> there,
                      image_->media_->look(place, content.bytes));
      if (there.data() != content.bytes.data()) std::ranges::copy(there, content.bytes.begin());
    }
    PCOW_TRY(image_->read_logged(place, record, content));
    if (!whole)
      return store_lines(*image_->media_, &StoredBytes::checkpoint, place, record.mask, content);
    if (count_++ == 0) first_ = place;
    return {};
  }
  Result<void> finish() {
    PCOW_TRY(store_run());
    return punch_holes();
  }

 private:
  Result<void> store_run() {
    const size_t count = std::exchange(count_, 0);
    if (count == 0) return {};
    return image_->media_->write(&StoredBytes::checkpoint, first_,
                                 std::as_bytes(std::span(run_).first(count)));
  }
  Result<void> punch(uint64_t place) {
    if (hole_end_ != place) {
      PCOW_TRY(punch_holes());
      hole_ = place;
    }
    hole_end_ = place + kPageSize;
    return {};
  }
  Result<void> punch_holes() {
    const uint64_t length = std::exchange(hole_end_, 0) - hole_;
    if (hole_ == 0) return {};
    return image_->media_->file().punch(std::exchange(hole_, 0), length);
  }

  ImageImpl* image_;
  std::vector<format::Block> run_;
  size_t count_ = 0;
  uint64_t first_ = 0;     // place of the run
  uint64_t hole_ = 0;      // 0: none
  uint64_t hole_end_ = 0;  // behind it
};

// Stores up to so many pages of the round. Returns how many.
Result<uint64_t> ImageImpl::store_logged(uint64_t pages_max) {
  PageStorer storer(*this);
  std::vector<uint64_t> stored;
  uint64_t next = kEnd;
  const auto store = [&](uint64_t place, const LoggedPages::Page& page) -> Result<bool> {
    if (page.committed.mask == 0) return true;
    if (stored.size() == pages_max) {
      next = place;
      return false;
    }
    PCOW_TRY(storer.store(place, page));
    stored.push_back(place);
    return true;
  };
  PCOW_TRY(logged_.for_each(round_->next, kEnd, store));
  PCOW_TRY(storer.finish());
  // Not before: without memory half-way, the round begins again where it did.
  round_->next = next;
  for (const uint64_t place : stored) logged_.stored(place);
  return stored.size();
}

// REQUIRES: what lies in front of `tail` is stored and durable.
Result<void> ImageImpl::move_tail(uint64_t tail, Epoch epoch) {
  format::Superblock next = superblocks_.current();
  next.log_tail = tail;
  next.checkpointed_epoch = epoch.value;
  PCOW_TRY(update_superblock(next));
  log_.set_tail(tail);
  return {};
}

Result<void> ImageImpl::end_round() {
  const Round round = *round_;
  round_.reset();
  PCOW_TRY(media_->flush());
  // With nothing behind it the log begins again at the start of its ring.
  if (!epoch_under_way() && round.limit == log_.closed_end()) {
    return empty_log_and_mark(superblocks_.current().state, false);
  }
  return move_tail(round.limit, round.epoch);
}

Result<CheckpointReport> ImageImpl::checkpoint(uint64_t pages_max) {
  PCOW_TRY(check_open_for_writing());
  CheckpointReport report;
  if (!round_ && log_.closed_end() == log_.position().tail) {
    report.done = true;
    return report;
  }
  if (!round_) round_ = Round{0, log_.closed_end(), durable_epoch_};
  const auto run = [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(report.stored_pages, store_logged(pages_max));
    report.done = round_->next == kEnd;
    return report.done ? end_round() : Result<void>();
  };
  if (Result<void> result = run(); !result) {
    failed_ = true;
    return std::move(result).error();
  }
  resume_ahead();
  return report;
}

Result<void> ImageImpl::checkpoint_committed() {
  // A round that has begun frees what was committed then; the next one all that is by now.
  for (int rounds = round_ ? 2 : 1; rounds > 0; --rounds) {
    PCOW_TRY(checkpoint(kEnd));
  }
  return {};
}

Result<void> ImageImpl::store_all_logged() {
  round_ = Round{0, log_.closed_end(), durable_epoch_};
  const Result<uint64_t> stored = store_logged(kEnd);
  round_.reset();
  return stored ? media_->flush() : Result<void>(stored.error());
}

Result<void> ImageImpl::checkpoint_log() {
  Result<void> result = store_all_logged();
  if (result) result = empty_log_and_mark(superblocks_.current().state, false);
  if (!result) failed_ = true;
  return result;
}

}  // namespace pcow
