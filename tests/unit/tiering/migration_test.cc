// SPDX-License-Identifier: BSD-3-Clause
//
// A region that follows a policy: what is used comes to DRAM, what is not leaves, the limit and the
// rate are kept, and whatever moves, memory holds what was stored.
#include "tiering/migration.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/tiering/epoch_fixture.h"
#include "tests/unit/tiering/fixture.h"

namespace tiering::testing {
namespace {

using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::PageIndex;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kSize = 32 * kMiB;
constexpr uint64_t kPages = kSize / kPageSize;
constexpr uint64_t kDramPages = 1024;
constexpr uint64_t kHotPages = 600;

// Every epoch of the image is one of the policy, and all chunks are watched.
const MigrationOptions kEveryEpoch{.step = std::chrono::nanoseconds(0),
                                   .demoted_pages_max = kPages,
                                   .limit_pages_max = kPages,
                                   .promoted_pages_max = kPages,
                                   .watched_chunks_min = kPages / kPagesPerChunk,
                                   .watched_pages_max = kPages};

constexpr PolicyParameters kHeat{.kind = PolicyKind::kHeat,
                                 .dram_size = kDramPages * kPageSize,
                                 .high_percent = 90,
                                 .low_percent = 80,
                                 .migrate_rate = 1024 * pcow::kGiB};

// A region over an image in which page i is marked with i, none in DRAM. What the guest accesses is
// compared with what it stored last.
class MigrationTest : public ImageTest {
 protected:
  void start(const MigrationOptions& options, const PolicyParameters& parameters) {
    must(pcow::Image::create(path(), {.virtual_size = kSize, .log_size = 64 * kMiB}));
    open();
    map();
    for (uint64_t page = 0; page < kPages; ++page) write(page);
    must(region_->commit(false));
    region_.reset();
    close();
    open();
    map();
    guarded_.emplace(*region_);
    migration_.emplace(*guarded_, kSize, 0, options);
    must(migration_->set_parameters(parameters));
  }
  void map() { region_ = map_region(image(), {.persistence = Persistence::kEpoch}); }

  void write(uint64_t page) {
    values_.at(page) += kPages + page;
    guest_store(*region_, page, values_.at(page));
  }
  void read(uint64_t page) { ASSERT_EQ(mark(*region_, page), values_.at(page)) << page; }

  BarrierReport epoch() {
    must(migration_->prepare());
    must(region_->precopy());
    const BarrierReport report = must(region_->barrier());
    EXPECT_FALSE(report.demotion_error);
    migration_->barrier_made(report);
    must(region_->commit_epoch());
    must(region_->checkpoint(kAll));
    return report;
  }
  uint64_t dram_pages() { return must(region_->status()).dram_resident_bytes / kPageSize; }
  // How many of these pages are in DRAM.
  uint64_t in_dram(uint64_t first, uint64_t count) {
    uint64_t pages = 0;
    for (const PlacedRun& run : must(region_->places({PageIndex(first), count}))) {
      if (run.place == PagePlace::kDram) pages += run.run.count;
    }
    return pages;
  }
  template <typename Fn>
  static void for_each_hot(uint64_t first, const Fn& fn) {
    for (uint64_t page = first; page < first + kHotPages; ++page) fn(page);
  }
  void compare_all() {
    for (uint64_t page = 0; page < kPages; ++page) read(page);
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(image_mark(image(), page), values_.at(page)) << page;
    }
  }
  void discard(uint64_t first, uint64_t count) {
    must(region_->discard(first * kPageSize, count * kPageSize));
    std::fill_n(values_.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
  }
  uint64_t refused(Refusal why) {
    return migration_->statistics().refused.at(static_cast<size_t>(why));
  }

  std::vector<uint64_t> values_ = std::vector<uint64_t>(kPages);
  std::unique_ptr<Region> region_;
  std::optional<GuardedRegion> guarded_;
  std::optional<Migration> migration_;
};

TEST_F(MigrationTest, WhatIsReadOftenComesToDram) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 8; ++i) {
    for_each_hot(2000, [&](uint64_t page) { read(page); });
    epoch();
  }
  EXPECT_EQ(in_dram(2000, kHotPages), kHotPages);
  EXPECT_EQ(dram_pages(), kHotPages) << "and nothing else";
  EXPECT_EQ(migration_->statistics().promoted_pages, kHotPages);
  EXPECT_GE(migration_->statistics().read_pages, 2 * kHotPages);
  compare_all();
}

TEST_F(MigrationTest, AScanBringsNothing) {
  start(kEveryEpoch, kHeat);
  for (uint64_t i = 0; i < 8; ++i) {
    for (uint64_t page = 0; page < kPages / 8; ++page) read(i * kPages / 8 + page);
    epoch();
  }
  EXPECT_EQ(dram_pages(), 0U);
  EXPECT_EQ(migration_->statistics().promoted_pages, 0U);
}

// What was stored to leaves when other pages are stored to.
TEST_F(MigrationTest, AWrittenSetThatShiftsIsFollowed) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 10; ++i) {
    for_each_hot(0, [&](uint64_t page) { write(page); });
    epoch();
  }
  EXPECT_EQ(in_dram(0, kHotPages), kHotPages);
  constexpr uint64_t kSecond = 5000;
  for (int i = 0; i < 10; ++i) {
    for_each_hot(kSecond, [&](uint64_t page) { write(page); });
    epoch();
    // What may leave at a barrier was planned when it was clean, and came to the image before that.
    if (i >= 3) {
      EXPECT_LE(dram_pages(), kDramPages) << "epoch " << i;
    }
  }
  EXPECT_EQ(in_dram(kSecond, kHotPages), kHotPages);
  EXPECT_LE(in_dram(0, kHotPages), kDramPages * 90 / 100 - kHotPages);
  EXPECT_GT(migration_->statistics().planned_demotions, 0U);
  compare_all();
}

// Nobody sees the reads of what is in DRAM, so the first set leaves slowly; but it does.
TEST_F(MigrationTest, AReadSetThatShiftsIsFollowed) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 8; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    epoch();
  }
  ASSERT_EQ(in_dram(0, kHotPages), kHotPages);
  constexpr uint64_t kSecond = 5000;
  int epochs = 0;
  for (; epochs < 200 && in_dram(kSecond, kHotPages) < kHotPages * 9 / 10; ++epochs) {
    for_each_hot(kSecond, [&](uint64_t page) { read(page); });
    epoch();
    ASSERT_LE(dram_pages(), kDramPages) << "epoch " << epochs;
  }
  EXPECT_LT(epochs, 200);
  std::printf("epochs until the second set is in DRAM: %d\n", epochs);
  compare_all();
}

// Never more in DRAM than the limit and what was stored to in two epochs.
TEST_F(MigrationTest, TheLimitIsKept) {
  constexpr uint64_t kStoresPerEpoch = 200;
  for (const PolicyKind kind : {PolicyKind::kOff, PolicyKind::kStatic, PolicyKind::kAge,
                                PolicyKind::kHeat, PolicyKind::kCmq}) {
    SCOPED_TRACE(policy_name(kind));
    if (!migration_) start(kEveryEpoch, kHeat);
    PolicyParameters parameters = kHeat;
    parameters.kind = kind;
    must(migration_->set_parameters(parameters));
    for (uint64_t i = 0; i < 30; ++i) {
      for (uint64_t page = 0; page < kStoresPerEpoch; ++page) {
        write((i * kStoresPerEpoch + page) * 7 % kPages);
      }
      epoch();
      ASSERT_LE(dram_pages(), kDramPages + 2 * kStoresPerEpoch) << "epoch " << i;
    }
    EXPECT_GE(dram_pages(), kDramPages / 2) << "DRAM is used";
  }
  compare_all();
}

TEST_F(MigrationTest, TheRateIsKept) {
  MigrationOptions options = kEveryEpoch;
  PolicyParameters parameters = kHeat;
  parameters.migrate_rate = 100 * kPageSize;
  start(options, parameters);
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    epoch();
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const MigrationStatistics statistics = migration_->statistics();
  // What was not used adds up for a second.
  const double allowed = 100 * (1 + took.count()) + 1;
  EXPECT_LE(static_cast<double>(statistics.promoted_pages), allowed);
  EXPECT_GE(statistics.promoted_pages, 100U);
  EXPECT_GT(refused(Refusal::kRate), 0U);
}

// What was moved stays for a while, however cold it looks.
TEST_F(MigrationTest, PagesDoNotGoBackAndForth) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 8; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    epoch();
  }
  ASSERT_EQ(in_dram(0, kHotPages), kHotPages);
  const uint64_t moved = migration_->statistics().promoted_pages;
  for (int i = 0; i < 50; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    epoch();
  }
  EXPECT_EQ(migration_->statistics().promoted_pages, moved);
  EXPECT_EQ(migration_->statistics().planned_demotions, 0U);
}

TEST_F(MigrationTest, WrongParametersChangeNothing) {
  start(kEveryEpoch, kHeat);
  PolicyParameters wrong = kHeat;
  wrong.kind = PolicyKind::kCmq;
  wrong.low_percent = 99;
  const auto set = migration_->set_parameters(wrong);
  ASSERT_FALSE(set);
  EXPECT_EQ(set.error().code, pcow::Code::kInvalid);
  EXPECT_EQ(migration_->parameters(), kHeat);
}

TEST_F(MigrationTest, ParametersAreLive) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 8; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    epoch();
  }
  ASSERT_EQ(dram_pages(), kHotPages);
  PolicyParameters less = kHeat;
  less.dram_size = 100 * kPageSize;
  must(migration_->set_parameters(less));
  epoch();
  EXPECT_LE(dram_pages(), 100U) << "in spite of any cool-down";
  EXPECT_GT(migration_->statistics().tracker_bytes, 0U);
  must(migration_->set_parameters({.kind = PolicyKind::kOff, .dram_size = kSize}));
  EXPECT_EQ(migration_->statistics().tracker_bytes, 0U);
  for (uint64_t page = 0; page < kPages; ++page) write(page);
  epoch();
  EXPECT_EQ(dram_pages(), kPages);
  must(migration_->set_parameters({.kind = PolicyKind::kOff, .dram_size = 10 * kPageSize}));
  epoch();
  epoch();
  EXPECT_LE(dram_pages(), 10U);
  compare_all();
}

TEST_F(MigrationTest, ExplainsWherePagesAreAndWhy) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 8; ++i) {
    for (uint64_t page = 10; page < 20; ++page) read(page);
    for (uint64_t page = 30; page < 40; ++page) write(page);
    epoch();
  }
  std::vector<ExplainedRun> runs = must(migration_->explain({PageIndex(0), 50}));
  uint64_t next = 0;
  for (const ExplainedRun& run : runs) {
    EXPECT_EQ(run.placed.run.first.value, next);
    next = run.placed.run.end().value;
    const uint64_t first = run.placed.run.first.value;
    const bool read = first >= 10 && first < 20;
    const bool written = first >= 30 && first < 40;
    EXPECT_EQ(run.placed.place, read || written ? PagePlace::kDram : PagePlace::kImage) << first;
    EXPECT_EQ(run.known, read || written) << first;
    EXPECT_EQ(run.written, written) << first;
    ASSERT_TRUE(run.verdict.has_value());
    EXPECT_EQ(*run.verdict, Verdict::kBelongs) << first;
    if (read || written) {
      EXPECT_GT(run.heat, PageRecord::kHeatMax / 2) << first;
    }
  }
  EXPECT_EQ(next, 50U);
  EXPECT_LE(runs.size(), 9U);
  const auto beyond = migration_->explain({PageIndex(kPages), 1});
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, pcow::Code::kInvalid);

  must(migration_->set_parameters({.kind = PolicyKind::kStatic}));
  epoch();
  runs = must(migration_->explain({PageIndex(0), 1}));
  EXPECT_EQ(runs.at(0).verdict, Verdict::kPolicyStill);
  must(migration_->set_parameters({}));
  runs = must(migration_->explain({PageIndex(15), 1}));
  EXPECT_FALSE(runs.at(0).verdict.has_value());
  EXPECT_EQ(runs.at(0).placed.place, PagePlace::kDram);
}

// No room for all that is hot: why the others stay is said, and counted.
TEST_F(MigrationTest, ExplainsWhatWasRefused) {
  PolicyParameters narrow = kHeat;
  narrow.dram_size = 100 * kPageSize;
  start(kEveryEpoch, narrow);
  for (int i = 0; i < 10; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    epoch();
  }
  EXPECT_LE(dram_pages(), 90U);
  EXPECT_GE(dram_pages(), 70U);
  EXPECT_GT(refused(Refusal::kNoColderPage), 0U);
  uint64_t colder = 0;
  for (const ExplainedRun& run : must(migration_->explain({PageIndex(0), kHotPages}))) {
    if (run.verdict == Verdict::kNoColderPage) colder += run.placed.run.count;
  }
  EXPECT_GT(colder, kHotPages / 2);
}

// Memory that a guest gives up is not hot, whatever it was.
TEST_F(MigrationTest, WhatIsDiscardedIsForgotten) {
  start(kEveryEpoch, kHeat);
  for (int i = 0; i < 8; ++i) {
    for_each_hot(2000, [&](uint64_t page) { read(page); });
    epoch();
  }
  ASSERT_EQ(in_dram(2000, kHotPages), kHotPages);
  discard(2000, kHotPages);
  for (int i = 0; i < 4; ++i) epoch();
  EXPECT_EQ(dram_pages(), 0U);
  EXPECT_EQ(migration_->statistics().promoted_pages, kHotPages);
  for (const ExplainedRun& run : must(migration_->explain({PageIndex(2000), kHotPages}))) {
    EXPECT_FALSE(run.known) << run.placed.run.first.value;
  }
  compare_all();
}

std::function<void()> while_planning;

void planning(size_t count, const PartBody& body) {
  if (while_planning) std::exchange(while_planning, nullptr)();
  on_this_thread(count, body);
}

TEST_F(MigrationTest, WhatIsDiscardedWhileAPlanIsMadeIsForgotten) {
  MigrationOptions options = kEveryEpoch;
  options.parallel = planning;
  start(options, kHeat);
  for (int i = 0; i < 8; ++i) {
    for_each_hot(2000, [&](uint64_t page) { read(page); });
    epoch();
  }
  while_planning = [&] { discard(4 * kPagesPerChunk, kPagesPerChunk); };
  epoch();
  epoch();
  const PageRun gone{PageIndex(4 * kPagesPerChunk), kPagesPerChunk};
  for (const ExplainedRun& run : must(migration_->explain(gone))) EXPECT_FALSE(run.known);
  compare_all();
}

// Not even where it was about to be promoted.
TEST_F(MigrationTest, NothingIsPromotedThatWasDiscardedSince) {
  constexpr std::chrono::milliseconds kStep(50);
  MigrationOptions options = kEveryEpoch;
  options.step = kStep;
  options.promoted_pages_max = 1;
  start(options, kHeat);
  for (int i = 0; i < 100 && migration_->statistics().promoted_pages == 0; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    std::this_thread::sleep_for(kStep);
    epoch();
  }
  ASSERT_EQ(migration_->statistics().promoted_pages, 1U);
  discard(0, 500);  // of one chunk
  discard(513, 87);
  epoch();
  epoch();
  EXPECT_LE(in_dram(500, 13), 3U) << "what was left";
  EXPECT_EQ(in_dram(0, 500) + in_dram(513, 87), 0U);
  compare_all();
}

// What was planned before the guest stored does not come on top of that.
TEST_F(MigrationTest, NothingIsPromotedIntoRoomThatTheGuestTook) {
  constexpr std::chrono::milliseconds kStep(100);
  MigrationOptions options = kEveryEpoch;
  options.step = kStep;
  options.promoted_pages_max = 1;
  start(options, kHeat);
  for (int i = 0; i < 100 && migration_->statistics().promoted_pages == 0; ++i) {
    for_each_hot(0, [&](uint64_t page) { read(page); });
    std::this_thread::sleep_for(kStep);
    epoch();
  }
  for (uint64_t page = 4000; page < 4000 + kDramPages; ++page) write(page);
  epoch();
  const uint64_t before = migration_->statistics().promoted_pages;
  must(migration_->prepare());
  EXPECT_EQ(migration_->statistics().promoted_pages, before);
  compare_all();
}

// A barrier that does not unmap what was to be watched tells nothing of reads.
TEST_F(MigrationTest, WhatWasNotUnmappedWasNotRead) {
  start(kEveryEpoch, kHeat);
  for_each_hot(0, [&](uint64_t page) { read(page); });
  must(migration_->prepare());
  must(region_->commit(false));  // without what was prepared, as an epoch that begins again
  migration_->barrier_made(must(region_->barrier()));
  must(region_->commit_epoch());
  epoch();
  EXPECT_EQ(migration_->statistics().read_pages, 0U);
  EXPECT_EQ(migration_->statistics().unmapped_pages, kHotPages);
  for_each_hot(0, [&](uint64_t page) { read(page); });
  epoch();
  EXPECT_EQ(migration_->statistics().read_pages, kHotPages);
}

// Steps of the policy are not epochs of the image: with a long step there is one plan.
TEST_F(MigrationTest, AStepIsLongerThanAnEpoch) {
  MigrationOptions options = kEveryEpoch;
  options.step = std::chrono::hours(1);
  start(options, kHeat);
  for (int i = 0; i < 5; ++i) epoch();
  EXPECT_EQ(migration_->statistics().plans, 1U);
  EXPECT_EQ(migration_->statistics().steps, 0U);
}

// With the thread that makes epochs, beside a guest that stores and reads.
class MigrationThreadTest : public EpochThreadTest {};

TEST_F(MigrationThreadTest, FollowsAGuestThatRuns) {
  must(pcow::Image::create(path(), {.virtual_size = kSize, .log_size = 64 * kMiB}));
  open();
  region_ = map_region(image(), {.persistence = Persistence::kEpoch});
  for (uint64_t page = 0; page < kPages; ++page) guest_store(*region_, page, page);
  must(region_->commit(false));
  region_.reset();
  close();
  open();
  region_ = map_region(image(), {.persistence = Persistence::kEpoch});
  guarded_.emplace(*region_);
  Migration migration(*guarded_, kSize, 0, kEveryEpoch);
  must(migration.set_parameters(kHeat));
  manager_.emplace(*guarded_, host_, EpochOptions{.interval = kFast}, &migration);
  must(manager_->start());
  std::vector<uint64_t> values(kPages);
  for (uint64_t page = 0; page < kPages; ++page) values[page] = page;
  uint64_t uses = 0;
  const auto use = [&] {
    const uint64_t hot = uses / 100 * 900 % (kPages - kHotPages);
    host_.run([&] {
      for (uint64_t i = 0; i < kHotPages; ++i) {
        const uint64_t page = hot + i;
        ASSERT_EQ(mark(*region_, page), values[page]) << page;
        if (i % 4 == 0) guest_store(*region_, page, values[page] = uses * kPages + page);
      }
    });
    if (++uses % 64 == 0) must(migration.explain({PageIndex(hot), kHotPages}));
  };
  wait_for([&] {
    if (HasFatalFailure()) return true;
    use();
    const MigrationStatistics now = migration.statistics();
    return now.promoted_pages > 1000 && manager_->statistics().demoted_pages > 1000;
  });
  manager_->stop();
  EXPECT_EQ(host_.failures, 0);
  for (uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(mark(*region_, page), values[page]);
  must(region_->commit(true));
  for (uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(image_mark(image(), page), values[page]) << page;
  }
  manager_.reset();
}

}  // namespace
}  // namespace tiering::testing
