// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/migration.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "tiering/memory_checked.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::Code;
using pcow::PageIndex;
using pcow::Result;

namespace {

// Between which others may use the region.
constexpr uint64_t kPagesPerPromotion = 256;

// A copy is dirty until it was compared, so copies must not look as if the log were filling: it
// holds the guest when half of the log's room may be dirty.
constexpr uint64_t kLogRoomShare = 8;

// While DRAM is filling.
constexpr int kPlansPerStep = 8;

constexpr const char* kNoMemory = "out of memory for the tiering policy";

uint64_t pages_in(std::span<const PageRun> runs) {
  uint64_t pages = 0;
  for (const PageRun& run : runs) pages += run.count;
  return pages;
}

void leave_out(const PageSet& others, std::vector<PageRun>& runs) {
  if (others.empty()) return;
  std::vector<PageRun> left;
  for (const PageRun& run : runs) {
    for (PageIndex page = run.first; page < run.end(); ++page) {
      if (!others.contains(page)) add_page(left, page);
    }
  }
  runs.swap(left);
}

// Where no access is to be expected, none misses.
uint32_t hit_permille(const ExpectedAccesses& expected) {
  return expected.all == 0 ? 1000 : static_cast<uint32_t>(expected.unseen * 1000 / expected.all);
}

// Null for a verdict that is no refusal.
const Refusal* refusal_of(Verdict verdict) {
  static constexpr std::array kReasons = {Refusal::kCoolDown, Refusal::kPinned, Refusal::kRate,
                                          Refusal::kNoColderPage};
  if (!is_refusal(verdict)) return nullptr;
  return &kReasons.at(static_cast<size_t>(verdict) - static_cast<size_t>(Verdict::kCoolDown));
}

}  // namespace

const char* refusal_name(Refusal refusal) {
  switch (refusal) {
    case Refusal::kCoolDown:
      return "cool-down";
    case Refusal::kPinned:
      return "pinned";
    case Refusal::kRate:
      return "rate";
    case Refusal::kNoColderPage:
      return "no-colder-page";
    case Refusal::kUnmovable:
      return "unmovable";
    case Refusal::kFailed:
      return "failed";
  }
  return "";
}

Migration::Migration(GuardedRegion& region, uint64_t region_bytes, uint64_t dram_size,
                     const MigrationOptions& options)
    : region_(region), region_bytes_(region_bytes), options_(options) {
  now_.dram_size = dram_size;
  wanted_ = now_;
}

Result<void> Migration::set_parameters(const PolicyParameters& parameters) {
  PCOW_TRY(check_parameters(parameters, region_bytes_));
  return memory_checked(kNoMemory, [&]() -> Result<void> {
    std::shared_ptr<HeatTracker> tracker;
    if (parameters.kind != PolicyKind::kOff) {
      tracker = std::make_shared<HeatTracker>(region_bytes_ / pcow::kChunkSize, options_.parallel);
    }
    const pcow::MutexLock lock(mutex_);
    wanted_ = parameters;
    // What is known of the pages is of use to every policy.
    if (!tracker || !tracker_) tracker_.swap(tracker);
    last_plan_.reset();
    return {};
  });
}

PolicyParameters Migration::parameters() {
  const pcow::MutexLock lock(mutex_);
  return wanted_;
}

MigrationStatistics Migration::statistics() {
  const pcow::MutexLock lock(mutex_);
  MigrationStatistics statistics = statistics_;
  statistics.tracker_bytes = tracker_ ? tracker_->memory_bytes() : 0;
  return statistics;
}

void Migration::refuse(Refusal why, uint64_t pages) {
  count([&](MigrationStatistics& now) { now.refused.at(static_cast<size_t>(why)) += pages; });
}

void Migration::tell_failure(const pcow::Error& error) {
  {
    const pcow::MutexLock lock(mutex_);
    if (statistics_.last_failure == error.message) return;
    statistics_.last_failure = error.message;
  }
  if (options_.failed) options_.failed(error);
}

bool Migration::follow_parameters() {
  PolicyParameters wanted;
  std::shared_ptr<HeatTracker> tracker;
  {
    const pcow::MutexLock lock(mutex_);
    wanted = wanted_;
    tracker = tracker_;
  }
  if (wanted == now_ && tracker == heat_) return heat_ != nullptr;
  if (tracker != heat_) {
    step_began_ = Clock::now();
    promoted_.clear();
    watch_ = ReadWatch();
    for (auto* chunks : {&to_watch_, &unmapping_, &watched_}) chunks->clear();
  }
  now_ = wanted;
  heat_ = std::move(tracker);
  planned_ = false;
  to_be_huge_.clear();
  returning_.clear();
  allowance_ = 0;
  if (!heat_) {
    copies_ = {};
    count([](MigrationStatistics& now) { now.hit_permille.reset(); });
  }
  demotions_.clear();
  promotions_.clear();
  return heat_ != nullptr;
}

Result<void> Migration::prepare() {
  const Clock::time_point start = Clock::now();
  Result<void> result = memory_checked(
      kNoMemory, [&] { return follow_parameters() ? follow_policy() : keep_limit_alone(); });
  if (heat_ && !result) result = do_without(result.error());
  count([&](MigrationStatistics& now) { now.busy += Clock::now() - start; });
  return result;
}

Result<void> Migration::do_without(const pcow::Error& error) {
  demotions_.clear();
  promotions_.clear();
  returning_.clear();
  for (auto* chunks : {&to_watch_, &unmapping_, &watched_, &to_be_huge_}) chunks->clear();
  return memory_checked(kNoMemory, [&] {
    count([](MigrationStatistics& now) { ++now.failed_steps; });
    tell_failure(error);
    return keep_limit_alone();
  });
}

Result<void> Migration::keep_limit_alone() {
  return region_.with([&](Region& region) -> Result<void> {
    region.set_dram_size(now_.dram_size);
    if (heat_) note_discards(region);
    PCOW_TRY(region.prepare_demotion(options_.limit_pages_max));
    return {};
  });
}

Result<void> Migration::follow_policy() {
  region_.with([&](Region& region) {
    region.set_dram_size(now_.dram_size);
    note_writes(region);
    note_discards(region);
  });
  const Clock::time_point now = Clock::now();
  const bool step_is_over = now - step_began_ >= options_.step;
  if (step_is_over || !planned_ || is_filling(now)) PCOW_TRY(plan(step_is_over));
  PCOW_TRY(hand_demotions());
  promote_some();
  return {};
}

bool Migration::is_filling(Clock::time_point now) const {
  if (now_.dram_size == 0 || now - planned_at_ < options_.step / kPlansPerStep) return false;
  const bool moves = now_.kind != PolicyKind::kStatic;
  return dram_pages_ + grown_pages_ > (moves ? budget_.high_pages : budget_.limit_pages);
}

void Migration::note_writes(Region& region) {
  region.for_each_collected([&](PageRun run) {
    if (promoted_.empty()) return note_written(run);
    for (PageIndex page = run.first; page < run.end(); ++page) {
      if (!promoted_.contains(page)) note_written({page, 1});
    }
  });
  promoted_.clear();
}

// Nobody wants to have it in DRAM, however hot it was. To be called before each plan of the
// region's, which forgets what was discarded before.
void Migration::note_discards(Region& region) {
  region.for_each_discarded([&](PageRun run) {
    heat_->forget(run.first, run.count);
    if (promotions_.pages() == 0) return;
    discarded_.reserve(run.first, run.count);
    discarded_.insert(run.first, run.count);
  });
}

void Migration::note_written(PageRun run) {
  heat_->note_written(run.first, run.count);
  auto copy =
      std::ranges::lower_bound(copies_, pcow::chunk_of(run.first), {}, &ChunkResidency::chunk);
  for (PageIndex page = run.first; page < run.end(); ++page) {
    const ChunkIndex chunk = pcow::chunk_of(page);
    while (copy != copies_.end() && copy->chunk < chunk) ++copy;
    const bool here = copy != copies_.end() && copy->chunk == chunk;
    if (here && copy->resident[pcow::page_in_chunk(page)]) continue;
    if (here) copy->resident.set(pcow::page_in_chunk(page));
    ++grown_pages_;
  }
}

Result<void> Migration::note_reads() {
  uint64_t read = 0;
  for (const ChunkIndex chunk : watched_) {
    uint64_t seen = 0;
    const auto note = [&](PageRun run) {
      heat_->note_read(run.first, run.count);
      seen += run.count;
    };
    PCOW_TRY(region_.with([&](Region& region) { return region.mapped_pages(chunk, note); }));
    heat_->watch_reads(chunk);
    watch_.saw(chunk, seen);
    read += seen;
  }
  count([&](MigrationStatistics& now) {
    now.watched_chunks += watched_.size();
    now.read_pages += read;
  });
  watched_.clear();
  return {};
}

Result<void> Migration::plan(bool step_is_over) {
  if (step_is_over) PCOW_TRY(note_reads());
  PCOW_TRY_ASSIGN(copies_,
                  region_.with([](Region& region) { return region.collected_residency(); }));
  dram_pages_ = grown_pages_ = 0;
  for (ChunkResidency& chunk : copies_) {
    dram_pages_ += chunk.resident.count();
    // Not in this epoch.
    chunk.pinned |= chunk.dirty;
  }
  const Clock::time_point now = Clock::now();
  uint32_t hits = 0;
  if (step_is_over) {
    hits = hit_permille(heat_->end_of_epoch(copies_));
    step_began_ = now;
  }
  const std::chrono::nanoseconds step = std::max<std::chrono::nanoseconds>(
      options_.step, std::chrono::seconds(1));  // what is not used adds up so long
  const std::chrono::nanoseconds elapsed = planned_ ? now - planned_at_ : step;
  allowance_ = std::min(allowance_ + moves_in(now_, elapsed), moves_in(now_, step));
  planned_at_ = now;
  planned_ = true;
  budget_ = budget_of(now_, region_bytes_, static_cast<uint64_t>(allowance_));
  Plan made;
  {
    const HeatTracker::Frozen frozen = heat_->freeze();
    const std::vector<ChunkView> snapshot = frozen.snapshot(copies_);
    made = make_plan(now_.kind, budget_, snapshot);
    if (step_is_over) to_be_huge_ = choose_huge(snapshot, made, huge_limits(made));
  }
  take_plan(std::move(made));
  if (step_is_over) choose_watched();
  count([&](MigrationStatistics& counted) {
    counted.steps += step_is_over ? 1U : 0U;
    ++counted.plans;
    counted.dram_pages = dram_pages_;
    if (step_is_over) counted.hit_permille = hits;
  });
  return {};
}

// In what promotions leave of DRAM.
HugeLimits Migration::huge_limits(const Plan& plan) const {
  const uint64_t used = dram_pages_ + plan.promoted;
  return {.room_pages = budget_.high_pages - std::min(budget_.high_pages, used),
          .chunks_max = options_.huge_chunks_max,
          .idle_min = options_.huge_idle_min};
}

void Migration::take_plan(Plan plan) {
  over_limit_ = dram_pages_ - std::min(dram_pages_, budget_.limit_pages);
  discarded_.clear();
  demotions_ = RunQueue(std::exchange(plan.demotions, {}));
  promotions_ = RunQueue(std::exchange(plan.promotions, {}));
  for (size_t i = 0; i < kVerdicts; ++i) {
    const Refusal* why = refusal_of(static_cast<Verdict>(i));
    if (why != nullptr && plan.refused.at(i) > 0) refuse(*why, plan.refused.at(i));
  }
  const pcow::MutexLock lock(mutex_);
  if (wanted_.kind == now_.kind) last_plan_ = LastPlan{now_.kind, std::move(plan)};
}

void Migration::choose_watched() {
  const uint64_t share = region_bytes_ / pcow::kChunkSize / kWatchedShare;
  const auto source = [&](ChunkIndex from, uint64_t most) {
    return region_.with([&](Region& region) { return region.cached_chunks(from, most); });
  };
  unmapping_.clear();
  to_watch_ = watch_.choose(std::max(options_.watched_chunks_min, share), source);
}

void Migration::note_moved(std::span<const PageRun> runs) {
  for (const PageRun& run : runs) heat_->note_moved(run.first, run.count, kCoolDownEpochs);
  allowance_ = std::max(0.0, allowance_ - static_cast<double>(pages_in(runs)));
}

Result<void> Migration::hand_demotions() {
  watch_later();  // there was no barrier since they were handed over
  const std::vector<PageRun> chosen =
      demotions_.take(over_limit_ > 0 ? options_.limit_pages_max : options_.demoted_pages_max);
  WholeChunks whole = with_whole_chunks(chosen, copies_);
  // Those of the last time, whose chunks have gone by now.
  promotions_.append(std::exchange(returning_, std::move(whole.returning)));
  const Moves moves{.demotions = whole.demotions,
                    .watched = to_watch_,
                    .watched_pages_max = options_.watched_pages_max,
                    .huge = to_be_huge_};
  PCOW_TRY_ASSIGN(const PreparedMoves prepared, region_.with([&](Region& region) {
    note_discards(region);
    return region.prepare_moves(moves);
  }));
  // So that barrier_made() takes no memory.
  watched_.reserve(watched_.size() + prepared.watched.size());
  for (const WatchedChunk& watched : prepared.watched) {
    (watched.mapped_pages == 0 ? watched_ : unmapping_).push_back(watched.chunk);
  }
  to_watch_.erase(to_watch_.begin(),
                  to_watch_.begin() + static_cast<std::ptrdiff_t>(prepared.watched.size()));
  // Whatever became of them: the next step chooses anew.
  const size_t tried = std::min(to_be_huge_.size(), Moves::kHugeMax);
  to_be_huge_.erase(to_be_huge_.begin(), to_be_huge_.begin() + static_cast<std::ptrdiff_t>(tried));
  note_moved(prepared.demotions);
  const uint64_t going = pages_in(prepared.demotions);
  if (prepared.unstored_pages > 0) refuse(Refusal::kPinned, prepared.unstored_pages);
  if (prepared.unmovable_pages > 0) refuse(Refusal::kUnmovable, prepared.unmovable_pages);
  count([&](MigrationStatistics& now) { now.planned_demotions += going; });
  return make_room(going);
}

// What the policy chose may be unable to go, but the limit holds.
Result<void> Migration::make_room(uint64_t going) {
  const uint64_t over = std::min(std::exchange(over_limit_, 0), options_.limit_pages_max);
  if (over == 0 || going > over / 2) return {};
  PCOW_TRY_ASSIGN(const uint64_t pages, region_.with([&](Region& region) {
    note_discards(region);
    return region.prepare_demotion(options_.limit_pages_max);
  }));
  watch_later();  // this is in place of what was prepared
  count([&](MigrationStatistics& now) {
    now.planned_demotions += pages;
    now.planned_demotions -= going;
    now.limit_demotions += pages;
  });
  return {};
}

void Migration::watch_later() {
  to_watch_.insert(to_watch_.begin(), unmapping_.begin(), unmapping_.end());
  unmapping_.clear();
}

uint64_t Migration::promotions_now() {
  const uint64_t log_room =
      region_.with([](Region& region) { return region.log_state().room_pages; });
  const uint64_t used = dram_pages_ + grown_pages_;
  const uint64_t room = budget_.high_pages - std::min(budget_.high_pages, used);
  return std::min({options_.promoted_pages_max, log_room / kLogRoomShare, room});
}

// A promotion that fails is one that is not made: the page is read where it is.
void Migration::promote_some() {
  if (promotions_.pages() == 0) return;
  uint64_t left = promotions_now();
  while (left > 0 && promotions_.pages() > 0) {
    std::vector<PageRun> runs = promotions_.take(std::min(left, kPagesPerPromotion));
    left -= pages_in(runs);
    leave_out(discarded_, runs);
    for (const PageRun& run : runs) {
      promoted_.reserve(run.first, run.count);
      promoted_.insert(run.first, run.count);
      const Result<uint64_t> done =
          region_.with([&](Region& region) { return region.promote(run); });
      if (!done) {
        refuse(Refusal::kFailed, run.count + promotions_.pages());
        promotions_.clear();
        tell_failure(done.error());
        return;
      }
      note_moved({&run, 1});
      dram_pages_ += *done;
      count([&](MigrationStatistics& now) { now.promoted_pages += *done; });
    }
  }
}

void Migration::barrier_made(const BarrierReport& report) {
  dram_pages_ -= std::min(dram_pages_, report.demoted_pages);
  // Where that was cut short, or left out because the epoch began again, the pages that are still
  // mapped would count as read.
  if (report.unmapped_pages > 0) {
    watched_.insert(watched_.end(), unmapping_.begin(), unmapping_.end());
    unmapping_.clear();
  }
  count([&](MigrationStatistics& now) {
    now.unmapped_pages += report.unmapped_pages;
    now.huge_chunks += report.huge_chunks;
  });
}

}  // namespace tiering
