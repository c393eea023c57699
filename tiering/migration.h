// SPDX-License-Identifier: BSD-3-Clause
//
// Makes a region follow a policy: what the region shows becomes heat, the policy makes a plan of
// it, and the plan becomes demotions at barriers and promotions in between. Decides nothing by
// itself but how much of that is done at a time.
//
//   before an epoch, while the guest runs           prepare()
//     what was stored to, or discarded              heat of writes; or nothing is known any more
//     every `step`, or when DRAM is filling:
//       what was read of the chunks that are watched  heat of reads
//       where the pages are, how hot they are         a plan
//     a part of the plan                            demotions, chunks to watch, and chunks that
//                                                   become huge, for the barrier
//                                                   promotions, at once
//   after its barrier                               barrier_made()
//
// Nothing of it happens while the guest is quiet, but for what Region::barrier() does with what was
// prepared. What a plan wants and an epoch has no room for waits for the next one, until there is
// another plan.
//
// The limit, dram_size, is looked at once in an epoch, and pages leave at barriers; so DRAM exceeds
// it by what the guest makes its own between one look and the barrier after the next at most, and
// by what may not leave: pages that are pinned, or not in their place in the image yet. Where the
// pages that the policy chose cannot leave, and they are more than half of what is over the limit,
// other clean pages do (Region::prepare_demotion()).
//
// Memory: HeatTracker's, four bytes a page that somebody uses; while a plan is made, 400 bytes for
// each chunk in use, which is less than a byte a page, and 16 bytes a page that moves.
//
// Threads: prepare() and barrier_made() belong to the maker of epochs; everything else may be
// called by anyone at any time. Lock order: region → tracker; mutex_ is a leaf. No lock is held
// while the host is asked for quiet.
#pragma once

#include <tiering/region.h>
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pcow/base/mutex.h"
#include "tiering/guarded_region.h"
#include "tiering/hotness/heat_tracker.h"
#include "tiering/page_set.h"
#include "tiering/policy/huge.h"
#include "tiering/policy/parameters.h"
#include "tiering/read_watch.h"
#include "tiering/run_queue.h"

namespace tiering {

struct MigrationOptions {
  // Between two plans, but where DRAM is filling: what an epoch is for the policy.
  std::chrono::nanoseconds step = std::chrono::seconds(1);
  // By one barrier, about: each page takes about 0.2 µs. More where the limit is exceeded.
  uint64_t demoted_pages_max = 4096;
  uint64_t limit_pages_max = 16384;
  // Between two barriers: each takes about 2 µs, of no guest's time.
  uint64_t promoted_pages_max = 8192;
  // In a step: each chunk costs the guest a fault for every page that it reads there. At least so
  // many, and one in kWatchedShare of all.
  uint64_t watched_chunks_min = 32;
  // By one barrier. REQUIRES: kPagesPerChunk or more.
  uint64_t watched_pages_max = 4096;
  // In a step, Moves::kHugeMax of them by one barrier: to stage one takes about 0.5 ms, of no
  // guest's time.
  size_t huge_chunks_max = 64;
  // Of those without a store for so many epochs of the policy.
  uint32_t huge_idle_min = 8;
  Parallel parallel = on_this_thread;
  // Called by the maker of epochs, without a lock, when a step, or a promotion, fails by something
  // else than the last one that did.
  std::function<void(const pcow::Error&)> failed = nullptr;
};

// Why a move that the policy wanted was not made, or not yet.
enum class Refusal : uint8_t {
  kCoolDown,      // the page has just been moved
  kPinned,        // it is pinned, or was stored to and is not in the image yet
  kRate,          // the migration rate is used up
  kNoColderPage,  // no page in DRAM is colder by enough
  kUnmovable,     // its chunk would have to be mapped from elsewhere
  kFailed,        // the kernel could not
};
inline constexpr size_t kRefusals = 6;
const char* refusal_name(Refusal refusal);  // stable, lower case: "no-colder-page"

struct MigrationStatistics {
  uint64_t steps = 0;         // epochs of the policy
  uint64_t plans = 0;         // also those in between
  uint64_t failed_steps = 0;  // the limit was kept all the same, as far as that could be done
  uint64_t promoted_pages = 0;
  uint64_t planned_demotions = 0;  // what became of them: EpochStatistics
  uint64_t limit_demotions = 0;    // of them not chosen by the policy, but for the limit
  uint64_t watched_chunks = 0;
  uint64_t unmapped_pages = 0;  // to see whether they are read
  uint64_t read_pages = 0;      // seen read
  uint64_t huge_chunks = 0;     // that became huge
  std::array<uint64_t, kRefusals> refused{};
  uint64_t dram_pages = 0;  // when that was looked at last
  // Of a thousand accesses how many are to hit DRAM, by the heat that the last step found.
  std::optional<uint32_t> hit_permille = std::nullopt;
  uint64_t tracker_bytes = 0;
  std::chrono::nanoseconds busy{0};  // in prepare()
  std::string last_failure;          // of a promotion, or of a step
};

// Pages that are alike, where they are and why.
struct ExplainedRun {
  PlacedRun placed;
  bool known = false;    // somebody was seen to access it
  uint32_t heat = 0;     // up to PageRecord::kHeatMax
  uint32_t idle = 0;     // epochs of the policy since the last access
  bool written = false;  // the last one was a write
  uint32_t cool_down = 0;
  uint32_t score = 0;  // what it is worth in DRAM, on the policy's own scale
  // By the last plan, if there was one since the policy was set.
  std::optional<Verdict> verdict = std::nullopt;

  bool operator==(const ExplainedRun&) const = default;
};

class Migration {
 public:
  static constexpr uint64_t kWatchedShare = 128;
  static constexpr uint64_t kExplainedPagesMax = pcow::kGiB / pcow::kPageSize;

  // Begins with no policy and the region's own dram_size. REQUIRES: a region with kEpoch, which
  // outlives it.
  Migration(GuardedRegion& region, uint64_t region_bytes, uint64_t dram_size,
            const MigrationOptions& options);

  // Takes effect with the next epoch. On an error nothing has changed. Errors: kInvalid, kNoMemory.
  pcow::Result<void> set_parameters(const PolicyParameters& parameters) PCOW_EXCLUDES(mutex_);
  PolicyParameters parameters() PCOW_EXCLUDES(mutex_);
  MigrationStatistics statistics() PCOW_EXCLUDES(mutex_);
  // Ascending, without gaps. Errors: kInvalid (the range, or more than kExplainedPagesMax), kIo,
  // kCorrupt, kNoMemory.
  pcow::Result<std::vector<ExplainedRun>> explain(PageRun range) PCOW_EXCLUDES(mutex_);

  // What a policy fails in is no error, for epochs go on without it: `failed_steps`. Errors: those
  // of Region::prepare_demotion(), which then keeps the limit.
  pcow::Result<void> prepare() PCOW_EXCLUDES(mutex_);
  void barrier_made(const BarrierReport& report);

  // What the policy decided last.
  struct LastPlan {
    PolicyKind kind = PolicyKind::kOff;
    Plan plan;  // without its runs
  };

 private:
  using Clock = std::chrono::steady_clock;

  // Whether there is a policy to follow.
  bool follow_parameters() PCOW_EXCLUDES(mutex_);
  pcow::Result<void> keep_limit_alone();
  pcow::Result<void> do_without(const pcow::Error& error);
  pcow::Result<void> follow_policy();
  void note_writes(Region& region);
  void note_discards(Region& region);
  void note_written(PageRun run);
  bool is_filling(Clock::time_point now) const;
  pcow::Result<void> note_reads();
  pcow::Result<void> plan(bool step_is_over);
  HugeLimits huge_limits(const Plan& plan) const;
  void take_plan(Plan plan);
  void choose_watched();
  pcow::Result<void> hand_demotions();
  pcow::Result<void> make_room(uint64_t going);
  void watch_later();
  void promote_some();
  uint64_t promotions_now();
  void note_moved(std::span<const PageRun> runs);
  void refuse(Refusal why, uint64_t pages) PCOW_EXCLUDES(mutex_);
  void tell_failure(const pcow::Error& error) PCOW_EXCLUDES(mutex_);
  template <typename Fn>
  void count(const Fn& fn) PCOW_EXCLUDES(mutex_) {
    const pcow::MutexLock lock(mutex_);
    fn(statistics_);
  }

  GuardedRegion& region_;
  const uint64_t region_bytes_;
  const MigrationOptions options_;

  // Of the maker of epochs.
  PolicyParameters now_;
  std::shared_ptr<HeatTracker> heat_;  // null with kOff
  Budget budget_;                      // of the last plan
  double allowance_ = 0;               // pages that the rate allows to move
  Clock::time_point step_began_;
  Clock::time_point planned_at_;
  bool planned_ = false;                // since now_ was set
  std::vector<ChunkResidency> copies_;  // when they were looked at last, and written ones since
  uint64_t dram_pages_ = 0;             // about: as of then, and what was moved since
  uint64_t grown_pages_ = 0;            // that the guest made its own since, at most
  RunQueue demotions_;
  RunQueue promotions_;
  std::vector<PageRun> returning_;  // went with their chunk, and are wanted
  PageSet promoted_;                // whose copies are not what somebody wrote
  PageSet discarded_;               // since there was a plan: it promotes none of these
  ReadWatch watch_;
  std::vector<pcow::ChunkIndex> to_watch_;   // their pages are still to be unmapped
  std::vector<pcow::ChunkIndex> unmapping_;  // by the next barrier
  std::vector<pcow::ChunkIndex> watched_;    // were, so that reads show
  std::vector<pcow::ChunkIndex> to_be_huge_;
  uint64_t over_limit_ = 0;  // pages; of a plan that has just been made

  pcow::Mutex mutex_;
  PolicyParameters wanted_ PCOW_GUARDED_BY(mutex_);
  std::shared_ptr<HeatTracker> tracker_ PCOW_GUARDED_BY(mutex_);  // null with kOff
  std::optional<LastPlan> last_plan_ PCOW_GUARDED_BY(mutex_);
  MigrationStatistics statistics_ PCOW_GUARDED_BY(mutex_);
};

}  // namespace tiering
