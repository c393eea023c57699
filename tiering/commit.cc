// SPDX-License-Identifier: BSD-3-Clause
//
// The commit, step by step, and why no store is lost:
//
//   1 collect   dirty pages → pending_, armed in the page table. A store that comes later makes
//               its page dirty again, so that the next commit finds it.
//   2 write     pending_ → Image::write_pages(), in bounded batches. A failure ends the commit;
//               all of pending_ is written again by the next one, also what succeeded: a failed
//               Image::commit() says nothing about which of it reached the medium.
//   3 commit    Image::commit(). Only now pending_ is emptied.
//   4 demote    (demotion.cc) drops copies that equal the image.
//
// The content is read after arming (1 before 2): the other way round a store between the two would
// be armed without being written.
#include <algorithm>
#include <cstring>
#include <new>

#include "tiering/region_impl.h"

namespace tiering {

using pcow::GibIndex;

namespace {

constexpr size_t kPagesPerBatch = 4096;
constexpr uint64_t kPagesPerCompare = 64;
constexpr uint64_t kReclaimStep = 64 * pcow::kMiB;

}  // namespace

pcow::Result<CommitReport> RegionImpl::commit(bool may_demote) {
  pcow::Result<CommitReport> report = commit_steps(may_demote);
  // Dropping copies unmaps pages as well; so may what else happened, also when it failed half way.
  if (is_dax_) PCOW_TRY(tracker_->clear_stale_marks(whole()));
  return report;
}

pcow::Result<CommitReport> RegionImpl::commit_steps(bool may_demote) {
  try {
    CommitReport report;
    if (attributes_stale_) PCOW_TRY(apply_attributes());
    // What an earlier commit left here is written without asking: whether it is equal to what the
    // image holds does not say that it is durable.
    const bool compare = compare_ && pending_.empty();
    PCOW_TRY(collect_dirty());
    PCOW_TRY(tracker_->rearm());
    report.scanned_pages = pending_.size();
    PCOW_TRY(write_pending(report, compare));
    PCOW_TRY_ASSIGN(report.epoch, image_.commit());
    pending_.clear();
    if (may_demote) {
      PCOW_TRY_ASSIGN(report.demoted_pages, demote());
    }
    PCOW_TRY(reclaim_beyond(kReclaimStep));
    return report;
  } catch (const std::bad_alloc&) {
    return pcow::make_error(pcow::Code::kNoMemory,
                            "out of memory during commit; nothing is lost, try again");
  }
}

pcow::Result<void> RegionImpl::collect_dirty() {
  for (GibIndex gib(0); gib.value < chunks_.gibs(); ++gib) {
    // Before the pages are armed: nothing may fail between arming and remembering.
    pending_.reserve(gib);
    const auto remember = [&](AddressRange run) {
      pending_.insert(page_at(run.start), run.length / pcow::kPageSize);
    };
    PCOW_TRY(tracker_->collect(range_of(chunks_.gib_run(gib)), remember));
    pending_.trim(gib);
  }
  return {};
}

pcow::Result<void> RegionImpl::write_pending(CommitReport& report, bool compare) {
  std::vector<pcow::PageWrite> batch;
  batch.reserve(std::min<uint64_t>(kPagesPerBatch, pending_.size()));
  pcow::Result<void> result;
  pending_.for_each([&](pcow::PageIndex page) {
    if (!result) return;
    batch.push_back({page, space_.at(page.value * pcow::kPageSize)});
    if (batch.size() == kPagesPerBatch) result = write_batch(batch, report, compare);
  });
  if (result && !batch.empty()) result = write_batch(batch, report, compare);
  return result;
}

pcow::Result<void> RegionImpl::write_batch(std::vector<pcow::PageWrite>& batch,
                                           CommitReport& report, bool compare) {
  if (compare) PCOW_TRY(remove_equal(batch));
  if (!batch.empty()) {
    const pcow::Result<pcow::WriteReport> written = image_.write_pages(batch);
    // Storing to a window unmaps pages of it that are still to be compared.
    if (is_dax_) PCOW_TRY(tracker_->clear_stale_marks(chunks_around(batch)));
    if (!written) return written.error();
    report.written_pages += written->written_pages;
    report.zero_pages += written->zero_pages;
  }
  batch.clear();
  return {};
}

AddressRange RegionImpl::chunks_around(std::span<const pcow::PageWrite> batch) const {
  const pcow::ChunkIndex first = pcow::chunk_of(batch.front().page);
  return range_of({first, pcow::chunk_of(batch.back().page) - first + 1});
}

// Takes out the pages that the image already holds byte for byte.
pcow::Result<void> RegionImpl::remove_equal(std::vector<pcow::PageWrite>& batch) {
  scratch_.resize(kPagesPerCompare * pcow::kPageSize);
  size_t kept = 0;
  for (size_t i = 0; i < batch.size();) {
    // A run of neighbouring pages, read in one go.
    size_t run = 1;
    while (run < kPagesPerCompare && i + run < batch.size() &&
           batch[i + run].page == batch[i].page + run) {
      ++run;
    }
    PCOW_TRY(image_.read(batch[i].page.value * pcow::kPageSize,
                         std::span(scratch_).first(run * pcow::kPageSize)));
    for (size_t j = 0; j < run; ++j) {
      const std::byte* held = scratch_.data() + j * pcow::kPageSize;
      if (std::memcmp(held, batch[i + j].data, pcow::kPageSize) != 0) batch[kept++] = batch[i + j];
    }
    i += run;
  }
  batch.resize(kept);
  return {};
}

// On tmpfs a guest that reads an unowned page of a window makes the file grow by it. Giving that
// back takes a walk over the image, so it waits until it is worth it.
pcow::Result<void> RegionImpl::reclaim_beyond(uint64_t step) {
  if (!image_.hole_reads_allocate()) return {};
  const auto excess = [&] {
    const pcow::ImageInfo info = image_.info();
    return info.disk_bytes - std::min(info.disk_bytes, info.allocated_bytes);
  };
  if (excess() <= reclaim_floor_ + step) return {};
  PCOW_TRY(image_.reclaim_unowned());
  reclaim_floor_ = excess();
  return {};
}

}  // namespace tiering
