// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs of a region: memory as it is at a barrier becomes the image's next epoch.
//
//              precopy()                                        commit_epoch()
//            ┌───────────┐                                    ┌────────────────┐
//            ▼           │            barrier()               │                ▼
//          open ─────────┴──────────────────────────────▶ sealed             open
//   pages are logged while        everybody is quiet:      nothing is logged: what is stored now
//   they change                   the rest is logged       belongs to the next epoch
//
// Why the epoch is exactly the memory at the barrier:
//   E1  A page is armed before it is copied. A store that comes after arming makes it dirty again;
//       one that came before is in the copy. What was torn by a store is therefore dirty.
//   E2  A page leaves `pending_` only when log_pages() took it, so armed pages that are not logged
//       are remembered, whatever fails; or when it is what the image shows, the log included.
//   E3  Stores behind the page table arm nothing: those pages come by way of `pins_`, which gives
//       them at the latest at the barrier (pin_table.h).
//   E4  barrier() collects with everybody quiet, and seals only when `pending_` is empty. By E1 to
//       E3 every page then equals its newest copy in the log, but for those that are pinned: they
//       are any mixture, which is what a device leaves there, and are copied again next time.
//       What was discarded (discard.cc) is zero, and logged as that, unless a collect found it.
//   E5  While it is sealed nothing is logged; so the commit record covers the barrier and no more.
//   E6  An epoch that begins again (restart_epoch()) is pending as a whole before the image drops
//       it: `in_epoch_` is what log_pages() took since the last commit. Memory shows all of it, for
//       what is in the log is not demoted, and what was discarded is zero.
//
// I2 and I3 of region_impl.h hold with "logged" in place of "committed": what is in the log's open
// transaction is committed as a whole or the image fails as a whole.
#include <algorithm>
#include <string>

#include "tiering/region_impl.h"

namespace tiering {

using pcow::Code;
using pcow::GibIndex;
using pcow::make_error;

namespace {

constexpr uint64_t kPagesPerLogCall = 1024;
// A call must have room for all of its pages, so none is for more than this share of the log.
constexpr uint64_t kLogCallShare = 16;

// What a page takes of the log at most, with its share of the metadata.
constexpr uint64_t kLoggedPageSize = pcow::kPageSize + 2 * pcow::kLineSize;

constexpr const char* kNoMemory = "out of memory during an epoch; nothing is lost, try again";

}  // namespace

pcow::Result<void> RegionImpl::check_epoch(bool sealed) const {
  if (options_.persistence != Persistence::kEpoch) {
    return make_error(Code::kInvalid, "the region has no epochs: it was opened volatile");
  }
  if (sealed == sealed_) return {};
  return make_error(Code::kInvalid, sealed ? "there was no barrier to commit"
                                           : "the last barrier is not committed yet");
}

// Arms dirty pages and adds them to pending_.
pcow::Result<uint64_t> RegionImpl::collect_epoch(PinTable::Take pins, uint64_t& pinned) {
  uint64_t found = 0;
  for (GibIndex gib(0); gib.value < chunks_.gibs(); ++gib) {
    // Before the pages are armed: nothing may fail between arming and remembering.
    pending_.reserve(gib);
    stored_since_plan_.reserve(gib);
    if (!zero_copies_.empty()) discarded_since_plan_.reserve(gib);
    const auto remember = [&](AddressRange run) {
      const uint64_t pages = run.length / pcow::kPageSize;
      copies_changed(run);
      pending_.insert(page_at(run.start), pages);
      stored_since_plan_.insert(page_at(run.start), pages);
      tell_discards_apart({page_at(run.start), pages});
      found += pages;
    };
    PCOW_TRY(tracker_->collect(range_of(chunks_.gib_run(gib)), remember));
    pending_.trim(gib);
    stored_since_plan_.trim(gib);
    discarded_since_plan_.trim(gib);
  }
  PCOW_TRY(tracker_->rearm());
  pinned = pins_.take(pins, {&pending_, &stored_since_plan_});
  forget_stored_discards();
  forget_unchanged_copies();
  return found + pinned;
}

// Logs pending_, and what was discarded, as far as room for `room_kept` more pages remains and
// `stop` allows; whether that was all.
pcow::Result<bool> RegionImpl::log_pending(uint64_t room_kept, const PrecopyStop& stop,
                                           uint64_t& logged_bytes) {
  const uint64_t share = image_.log_state().size / pcow::kPageSize / kLogCallShare;
  const auto at_once = static_cast<size_t>(std::min(kPagesPerLogCall, share));
  std::vector<pcow::PageWrite> writes;
  writes.reserve(at_once);
  for (;;) {
    const uint64_t room = image_.log_state().room_pages;
    if (stop && stop(pending_.size(), room)) return false;
    if (pending_.empty()) return log_discarded(room_kept, logged_bytes);
    writes.clear();
    for (const pcow::PageIndex page : pending_.lowest(at_once)) {
      in_epoch_.reserve(gib_of(chunk_of(page)));
      writes.push_back({page, space_.at(page.value * pcow::kPageSize)});
    }
    if (room_kept > 0 && room < writes.size() + room_kept) return false;
    epoch_open_ = true;
    PCOW_TRY_ASSIGN(const pcow::LogReport logged, image_.log_pages(writes));
    logged_bytes += logged.logged_bytes;
    for (const pcow::PageWrite& write : writes) {
      pending_.erase(write.page);
      in_epoch_.insert(write.page, 1);
    }
  }
}

pcow::Result<PrecopyReport> RegionImpl::precopy(const PrecopyStop& stop) {
  PCOW_TRY(check_epoch(false));
  PrecopyReport report;
  if (!tracker_->collects_while_written()) return report;
  return memory_checked(kNoMemory, [&]() -> pcow::Result<PrecopyReport> {
    if (attributes_stale_) PCOW_TRY(set_attributes());
    uint64_t released = 0;
    PCOW_TRY_ASSIGN(report.found_pages, collect_epoch(PinTable::Take::kReleased, released));
    report.idle = report.found_pages == 0 && !epoch_open_ && pending_.empty() &&
                  discarded_.empty() && pins_.empty() && plan_.empty() && !leaving_;
    // A page that is copied twice takes room twice, and what is dirty at the barrier must find
    // some.
    const uint64_t half = image_.log_state().size / pcow::kPageSize / 2;
    PCOW_TRY_ASSIGN(const bool all, log_pending(half, stop, report.logged_bytes));
    report.log_filling = !all;
    return report;
  });
}

// Logs pending_. What does not fit fits perhaps in a log that has nothing else and is larger.
pcow::Result<void> RegionImpl::log_all(BarrierReport& report) {
  bool is_largest = false;
  for (;;) {
    auto logged = log_pending(0, {}, report.logged_bytes);
    if (logged) return {};
    pcow::Error error = std::move(logged).error();
    if (error.code != Code::kLogFull) return error;
    if (is_largest) {
      error.message += "; " + pcow::format_size(pending_.size() * pcow::kPageSize) +
                       " of what changed since the last epoch found no room, and the image "
                       "keeps that epoch";
      return error;
    }
    PCOW_TRY(restart_epoch());
    ++report.restarts;
    is_largest = image_.log_state().size == image_.log_state().size_max;
  }
}

// The epoch begins again, in a larger log; everything of it is pending. No window stays that it was
// given, so what was planned to be mapped from there is not.
pcow::Result<void> RegionImpl::restart_epoch() {
  plan_ = {};
  in_epoch_.for_each([&](pcow::PageIndex page) {
    pending_.reserve(gib_of(chunk_of(page)));
    pending_.insert(page, 1);
  });
  const pcow::LogState state = image_.log_state();
  const uint64_t wanted = pcow::round_up(pending_.size() * kLoggedPageSize, pcow::kWindowSize);
  const uint64_t size = std::min(std::max(2 * state.size, wanted), state.size_max);
  PCOW_TRY(image_.restart_epoch(size));
  in_epoch_.clear();
  epoch_open_ = false;
  return {};
}

pcow::Result<uint64_t> RegionImpl::grow_log() {
  PCOW_TRY(check_epoch(false));
  if (epoch_open_) return make_error(Code::kInvalid, "an epoch is under way in the log");
  const pcow::LogState state = image_.log_state();
  const uint64_t pages = size() / pcow::kPageSize;
  const uint64_t wanted = pcow::round_up(3 * pages * kLoggedPageSize, pcow::kWindowSize);
  const uint64_t size = std::min({2 * state.size, wanted, state.size_max});
  if (size <= state.size) return state.size;
  PCOW_TRY(image_.restart_epoch(size));
  return size;
}

pcow::Result<BarrierReport> RegionImpl::barrier() {
  PCOW_TRY(check_epoch(false));
  return memory_checked(kNoMemory, [&]() -> pcow::Result<BarrierReport> {
    if (attributes_stale_) PCOW_TRY(set_attributes());
    BarrierReport report;
    PCOW_TRY(collect_epoch(PinTable::Take::kAll, report.pinned_pages));
    report.residue_pages = pending_.size();
    PCOW_TRY(log_all(report));
    sealed_ = true;
    // From here on the epoch is whole, whatever becomes of the rest.
    const auto applied = memory_checked(kNoMemory, [&] { return apply_demotion(report); });
    if (!applied) report.demotion_error = applied.error();
    if (auto left = memory_checked(kNoMemory, [&] { return leave_given_up(); }); left) {
      report.moved_chunks = *left;
    } else {
      report.demotion_error = left.error();
    }
    return report;
  });
}

pcow::Result<pcow::Epoch> RegionImpl::commit_epoch() {
  PCOW_TRY(check_epoch(true));
  PCOW_TRY_ASSIGN(const pcow::Epoch epoch, image_.commit());
  sealed_ = false;
  epoch_open_ = false;
  in_epoch_.clear();
  spent_.clear();
  return epoch;
}

pcow::Result<pcow::CheckpointReport> RegionImpl::checkpoint(uint64_t pages_max) {
  if (options_.persistence != Persistence::kEpoch) return check_epoch(false).error();
  PCOW_TRY_ASSIGN(const pcow::CheckpointReport report, image_.checkpoint(pages_max));
  if (report.done) PCOW_TRY(reclaim_beyond(kReclaimStep));
  return report;
}

// All of an epoch while everybody is quiet.
pcow::Result<CommitReport> RegionImpl::commit_whole_epoch(bool may_demote) {
  if (sealed_) PCOW_TRY(commit_epoch());
  plan_ = {};
  PCOW_TRY_ASSIGN(const BarrierReport barrier_report, barrier());
  CommitReport report;
  report.scanned_pages = report.written_pages = barrier_report.residue_pages;
  PCOW_TRY_ASSIGN(report.epoch, commit_epoch());
  PCOW_TRY(checkpoint(image_.virtual_size() / pcow::kPageSize));
  if (!may_demote) return report;
  PCOW_TRY(prepare_demotion(image_.virtual_size() / pcow::kPageSize));
  BarrierReport demotion;
  PCOW_TRY(apply_demotion(demotion));
  report.demoted_pages = demotion.demoted_pages;
  return report;
}

pcow::Result<PageRun> RegionImpl::pages_of(uint64_t offset, uint64_t length) const {
  if (length == 0 || offset > size() || length > size() - offset) {
    return make_error(Code::kInvalid, "cannot pin " + std::to_string(length) + " bytes at " +
                                          std::to_string(offset) + ": the region has " +
                                          std::to_string(size()));
  }
  const uint64_t first = offset / pcow::kPageSize;
  return PageRun{pcow::PageIndex(first), (offset + length - 1) / pcow::kPageSize - first + 1};
}

pcow::Result<void> RegionImpl::pin(uint64_t offset, uint64_t length) {
  PCOW_TRY_ASSIGN(const PageRun run, pages_of(offset, length));
  return memory_checked("out of memory while pinning guest memory", [&]() -> pcow::Result<void> {
    pins_.pin(run);
    return {};
  });
}

pcow::Result<void> RegionImpl::unpin(uint64_t offset, uint64_t length) {
  PCOW_TRY_ASSIGN(const PageRun run, pages_of(offset, length));
  if (pins_.unpin(run)) return {};
  return make_error(Code::kInvalid, std::to_string(length) + " bytes at " + std::to_string(offset) +
                                        " are unpinned, but were not pinned");
}

}  // namespace tiering
