// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/hotness/heat_tracker.h"

#include <algorithm>

namespace tiering {

using pcow::ChunkIndex;
using pcow::kPagesPerChunk;
using pcow::PageIndex;

HeatTracker::HeatTracker(uint64_t chunks, Parallel parallel)
    : parallel_(parallel), slots_(chunks), watched_(chunks), least_idle_(chunks) {}

HeatTracker::~HeatTracker() {
  for (std::atomic<Records*>& slot : slots_) delete slot.load(std::memory_order_relaxed);
}

HeatTracker::Records& HeatTracker::records_of(uint64_t chunk) {
  std::atomic<Records*>& slot = slots_[chunk];
  Records* records = slot.load(std::memory_order_acquire);
  if (records != nullptr) return *records;
  auto fresh = std::make_unique<Records>();
  if (!slot.compare_exchange_strong(records, fresh.get(), std::memory_order_acq_rel)) {
    return *records;
  }
  tracked_.fetch_add(1, std::memory_order_relaxed);
  return *fresh.release();
}

void HeatTracker::set_bits(PageIndex first, uint64_t count, uint32_t bits) {
  const std::shared_lock lock(lock_);
  for (uint64_t page = first.value, end = first.value + count; page < end;) {
    Records& records = records_of(page / kPagesPerChunk);
    const uint64_t chunk_end = std::min(end, pcow::round_up(page + 1, kPagesPerChunk));
    for (; page < chunk_end; ++page) {
      std::atomic_ref(records[page % kPagesPerChunk]).fetch_or(bits, std::memory_order_relaxed);
    }
  }
}

void HeatTracker::note_written(PageIndex first, uint64_t count) {
  set_bits(first, count, PageRecord::kWritten);
}

void HeatTracker::note_read(PageIndex first, uint64_t count) {
  set_bits(first, count, PageRecord::kRead);
}

void HeatTracker::note_moved(PageIndex first, uint64_t count, uint32_t cool_down_epochs) {
  const std::shared_lock lock(lock_);
  for (uint64_t page = first.value; page < first.value + count; ++page) {
    const std::atomic_ref word(records_of(page / kPagesPerChunk)[page % kPagesPerChunk]);
    uint32_t old = word.load(std::memory_order_relaxed);
    while (!word.compare_exchange_weak(old, PageRecord(old).with_cool_down(cool_down_epochs).word(),
                                       std::memory_order_relaxed)) {
    }
  }
}

void HeatTracker::forget(PageIndex first, uint64_t count) {
  const std::shared_lock lock(lock_);
  for (uint64_t page = first.value, end = first.value + count; page < end;) {
    Records* const records = slots_[page / kPagesPerChunk].load(std::memory_order_acquire);
    const uint64_t chunk_end = std::min(end, pcow::round_up(page + 1, kPagesPerChunk));
    for (; records != nullptr && page < chunk_end; ++page) {
      std::atomic_ref((*records)[page % kPagesPerChunk]).store(0, std::memory_order_relaxed);
    }
    page = chunk_end;
  }
}

void HeatTracker::watch_reads(ChunkIndex chunk) {
  const std::shared_lock lock(lock_);
  watched_[chunk.value].store(1, std::memory_order_relaxed);
}

ExpectedAccesses HeatTracker::age_chunk(uint64_t chunk, bool doubt, const PageBits* unseen) {
  const bool watched = watched_[chunk].load(std::memory_order_relaxed) != 0;
  const Aging::Reads unwatched = doubt ? Aging::Reads::kDoubted : Aging::Reads::kUnwatched;
  const Aging::Reads reads = watched ? Aging::Reads::kWatched : unwatched;
  watched_[chunk].store(0, std::memory_order_relaxed);
  Records* records = slots_[chunk].load(std::memory_order_relaxed);
  ExpectedAccesses expected;
  if (records == nullptr) return expected;
  uint32_t least_idle = PageRecord::kRunMax;
  bool known = false;
  for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
    uint32_t& word = (*records)[i];
    if (word == 0) continue;
    const bool blind = unseen != nullptr && (*unseen)[i];
    const PageRecord record = aging_.aged(PageRecord(word), blind ? unwatched : reads);
    word = record.word();
    if (!record.known()) continue;
    known = true;
    least_idle = std::min(least_idle, record.idle());
    expected.all += record.heat();
    if (blind) expected.unseen += record.heat();
  }
  least_idle_[chunk] = static_cast<uint8_t>(least_idle);
  if (known) return expected;
  slots_[chunk].store(nullptr, std::memory_order_relaxed);
  tracked_.fetch_sub(1, std::memory_order_relaxed);
  delete records;
  return expected;
}

ExpectedAccesses HeatTracker::end_of_epoch(std::span<const ChunkResidency> unseen) {
  const std::unique_lock lock(lock_);
  ++epochs_;
  const bool doubt = epochs_ % kUnwatchedAging == 0;
  std::atomic<uint64_t> all = 0;
  std::atomic<uint64_t> in_unseen = 0;
  parallel_(slots_.size(), [&](size_t begin, size_t end) {
    auto blind = std::ranges::lower_bound(unseen, ChunkIndex(begin), {}, &ChunkResidency::chunk);
    ExpectedAccesses part;
    for (size_t chunk = begin; chunk < end; ++chunk) {
      const bool here = blind != unseen.end() && blind->chunk.value == chunk;
      const ExpectedAccesses of_chunk = age_chunk(chunk, doubt, here ? &blind->resident : nullptr);
      part.all += of_chunk.all;
      part.unseen += of_chunk.unseen;
      if (here) ++blind;
    }
    all.fetch_add(part.all, std::memory_order_relaxed);
    in_unseen.fetch_add(part.unseen, std::memory_order_relaxed);
  });
  return {all.load(std::memory_order_relaxed), in_unseen.load(std::memory_order_relaxed)};
}

HeatTracker::Frozen HeatTracker::freeze() const { return Frozen(*this); }

uint64_t HeatTracker::memory_bytes() const {
  const uint64_t per_chunk = sizeof slots_[0] + sizeof watched_[0] + sizeof least_idle_[0];
  return chunks() * per_chunk + tracked_.load(std::memory_order_relaxed) * sizeof(Records);
}

const uint32_t* HeatTracker::Frozen::words(ChunkIndex chunk) const {
  const Records* records = tracker_->slots_[chunk.value].load(std::memory_order_relaxed);
  return records == nullptr ? nullptr : records->data();
}

std::vector<ChunkView> HeatTracker::Frozen::snapshot(
    std::span<const ChunkResidency> residency) const {
  std::vector<ChunkView> views;
  views.reserve(tracker_->tracked_.load(std::memory_order_relaxed) + residency.size());
  auto in_dram = residency.begin();
  for (ChunkIndex chunk(0); chunk.value < chunks(); ++chunk) {
    const bool resident = in_dram != residency.end() && in_dram->chunk == chunk;
    const uint32_t* known = words(chunk);
    if (!resident && known == nullptr) continue;
    ChunkView& view = views.emplace_back();
    view.words = known;
    view.least_idle = tracker_->least_idle_[chunk.value];
    view.in_dram.chunk = chunk;
    if (resident) view.in_dram = *in_dram++;
  }
  return views;
}

}  // namespace tiering
