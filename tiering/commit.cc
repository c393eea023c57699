// SPDX-License-Identifier: BSD-3-Clause
//
// The commit, step by step, and why no store is lost:
//
//   1 collect   dirty pages → pending_, armed in the page table. A store that comes later makes
//               its page dirty again, so that the next commit finds it. Where the tracker may
//               report clean pages too, they go by way of candidates_, and into pending_ only those
//               that differ from the image.
//   2 write     what was discarded, as zeros, and pending_ → Image::write_pages(), in bounded
//               batches. A failure ends the commit;
//               all of pending_ is written again by the next one, also what succeeded: a failed
//               Image::commit() says nothing about which of it reached the medium.
//   3 commit    Image::commit(). Only now pending_ is emptied.
//   4 demote    (demotion.cc) drops copies that equal the image.
//
// The content is read after arming (1 before 2): the other way round a store between the two would
// be armed without being written.
#include <algorithm>
#include <cstring>

#include "tiering/region_impl.h"

namespace tiering {

using pcow::GibIndex;

namespace {

constexpr size_t kPagesPerBatch = 4096;
constexpr uint64_t kPagesPerCompare = 64;

GibIndex gib_of(pcow::PageIndex page) { return pcow::gib_of(pcow::chunk_of(page)); }

}  // namespace

pcow::Result<CommitReport> RegionImpl::commit(bool may_demote) {
  constexpr const char* kNoMemory = "out of memory during commit; nothing is lost, try again";
  if (options_.persistence == Persistence::kEpoch) {
    return memory_checked(kNoMemory, [&] { return commit_whole_epoch(may_demote); });
  }
  return memory_checked(kNoMemory, [&] { return commit_steps(may_demote); });
}

pcow::Result<void> RegionImpl::reclaim() {
  return memory_checked("out of memory while giving back space; try again",
                        [&] { return reclaim_beyond(0); });
}

pcow::Result<CommitReport> RegionImpl::commit_steps(bool may_demote) {
  CommitReport report;
  if (attributes_stale_) PCOW_TRY(set_attributes());
  PCOW_TRY_ASSIGN(report.scanned_pages, collect_dirty());
  PCOW_TRY(write_discarded());
  PCOW_TRY(write_pending(report));
  PCOW_TRY_ASSIGN(report.epoch, image_.commit());
  pending_.clear();
  if (may_demote) {
    PCOW_TRY_ASSIGN(const uint64_t zero_copies, drop_zero_copies());
    PCOW_TRY_ASSIGN(report.demoted_pages, demote());
    report.demoted_pages += zero_copies;
    PCOW_TRY(leave_given_up());
  }
  PCOW_TRY(reclaim_beyond(kReclaimStep));
  return report;
}

pcow::Result<uint64_t> RegionImpl::collect_dirty() {
  PageSet& found = compare_ ? candidates_ : pending_;
  for (GibIndex gib(0); gib.value < chunks_.gibs(); ++gib) {
    // Before the pages are armed: nothing may fail between arming and remembering.
    found.reserve(gib);
    const auto remember = [&](AddressRange run) {
      copies_changed(run);
      found.insert(page_at(run.start), run.length / pcow::kPageSize);
    };
    PCOW_TRY(tracker_->collect(range_of(chunks_.gib_run(gib)), remember));
    found.trim(gib);
  }
  PCOW_TRY(tracker_->rearm());
  forget_stored_discards();
  const uint64_t count = remembered_pages();
  if (compare_) PCOW_TRY(sort_candidates());
  return count;
}

// Candidates that differ from the image become pending, the others are clean. What an earlier
// commit left in pending_ stays there: that it is equal to what the image holds does not say that
// it is durable.
pcow::Result<void> RegionImpl::sort_candidates() {
  pcow::Result<void> result;
  pcow::PageIndex first;
  uint64_t count = 0;
  const auto compare_run = [&] {
    if (result && count > 0) result = take_changed(first, count);
    count = 0;
  };
  candidates_.for_each([&](pcow::PageIndex page) {
    if (count == kPagesPerCompare || page != first + count || gib_of(page) != gib_of(first)) {
      compare_run();
      first = page;
    }
    ++count;
  });
  compare_run();
  PCOW_TRY(result);
  candidates_.clear();
  return {};
}

// Compares neighbouring pages of one GiB, read in one go.
pcow::Result<void> RegionImpl::take_changed(pcow::PageIndex first, uint64_t count) {
  scratch_.resize(kPagesPerCompare * pcow::kPageSize);
  PCOW_TRY(image_.read(first.value * pcow::kPageSize,
                       std::span(scratch_).first(count * pcow::kPageSize)));
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t offset = i * pcow::kPageSize;
    const std::byte* held = scratch_.data() + offset;
    if (std::memcmp(held, space_.at(first.value * pcow::kPageSize + offset), pcow::kPageSize) !=
        0) {
      pending_.reserve(gib_of(first));
      pending_.insert(first + i, 1);
    }
  }
  return {};
}

pcow::Result<void> RegionImpl::write_pending(CommitReport& report) {
  std::vector<pcow::PageWrite> batch;
  batch.reserve(std::min<uint64_t>(kPagesPerBatch, pending_.size()));
  pcow::Result<void> result;
  const auto write_batch = [&]() -> pcow::Result<void> {
    PCOW_TRY_ASSIGN(const pcow::WriteReport written, image_.write_pages(batch));
    report.written_pages += written.written_pages;
    report.zero_pages += written.zero_pages;
    batch.clear();
    return {};
  };
  pending_.for_each([&](pcow::PageIndex page) {
    if (!result) return;
    batch.push_back({page, space_.at(page.value * pcow::kPageSize)});
    if (batch.size() == kPagesPerBatch) result = write_batch();
  });
  if (result && !batch.empty()) result = write_batch();
  return result;
}

// On tmpfs a guest that reads an unowned page of a window makes the file grow by it. Giving that
// back takes a walk over the image, so it waits until it is worth it. A session that crashed gave
// nothing back, and what it left is part of the floor: then the walk is due at shutdown (step 0).
pcow::Result<void> RegionImpl::reclaim_beyond(uint64_t step) {
  const bool due = crash_reclaim_due_ && step == 0;
  if (!due && !image_.file(0).hole_reads_allocate) return {};
  const auto excess = [&] {
    const pcow::ImageInfo info = image_.info();
    return info.disk_bytes - std::min(info.disk_bytes, info.allocated_bytes);
  };
  if (!due && excess() <= reclaim_floor_ + step) return {};
  PCOW_TRY(image_.reclaim_unowned());
  crash_reclaim_due_ = false;
  reclaim_floor_ = excess();
  return {};
}

}  // namespace tiering
