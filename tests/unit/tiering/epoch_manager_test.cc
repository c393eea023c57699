// SPDX-License-Identifier: BSD-3-Clause
//
// The thread that makes epochs, its policy of when, and what it measures.
#include "tiering/epoch_manager.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/unit/tiering/epoch_fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering::testing {
namespace {

using pcow::kMiB;
using pcow::kPageSize;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(EpochIntervalTest, StretchesWithWhatEpochsCostAndShrinksSlowly) {
  EpochInterval interval({.min = milliseconds(100), .max = seconds(5), .overhead = 0.02});
  EXPECT_EQ(interval.current(), milliseconds(100));
  interval.update({.pause = milliseconds(1), .armed_pages = 1000});
  EXPECT_EQ(interval.current(), milliseconds(100)) << "2 ms of 100";
  interval.update({.pause = milliseconds(10), .armed_pages = 10000});
  EXPECT_EQ(interval.current(), seconds(1)) << "20 ms of 1000";
  interval.update({.pause = seconds(1), .armed_pages = 1000000});
  EXPECT_EQ(interval.current(), seconds(5)) << "what the user agreed to lose";
  interval.update({});
  EXPECT_EQ(interval.current(), milliseconds(2500));
  for (int i = 0; i < 10; ++i) interval.update({});
  EXPECT_EQ(interval.current(), milliseconds(100));
}

TEST(EpochIntervalTest, AFixedIntervalStays) {
  EpochInterval interval({.min = milliseconds(50), .max = milliseconds(50)});
  interval.update({.pause = seconds(1), .armed_pages = 1000000});
  EXPECT_EQ(interval.current(), milliseconds(50));
}

TEST(EpochIntervalTest, ImpossibleOptionsAreRefused) {
  EXPECT_TRUE(EpochInterval::check({}));
  EXPECT_FALSE(EpochInterval::check({.min = milliseconds(0)}));
  EXPECT_FALSE(EpochInterval::check({.min = seconds(2), .max = seconds(1)}));
  EXPECT_FALSE(EpochInterval::check({.overhead = 0}));
  EXPECT_FALSE(EpochInterval::check({.overhead = 1.5}));
}

TEST(HistogramTest, QuantilesAreWithinAnEighth) {
  Histogram histogram;
  EXPECT_EQ(histogram.quantile(0.5), 0U);
  for (uint64_t value = 1; value <= 100000; ++value) histogram.record(value);
  for (const double share : {0.01, 0.5, 0.9, 0.99}) {
    const double exact = share * 100000;
    EXPECT_GE(static_cast<double>(histogram.quantile(share)), exact - 1) << share;
    EXPECT_LE(static_cast<double>(histogram.quantile(share)), exact * 1.125 + 1) << share;
  }
  EXPECT_EQ(histogram.quantile(1), 100000U);
  histogram.record(~uint64_t{0});
  EXPECT_EQ(histogram.max(), ~uint64_t{0});
  EXPECT_EQ(histogram.quantile(1), ~uint64_t{0});
  EXPECT_EQ(histogram.count(), 100001U);
}

using EpochManagerTest = EpochThreadTest;

TEST_F(EpochManagerTest, EpochsFollowEachOther) {
  create(64 * kMiB);
  EpochManager& manager = start(image(), kFast);
  uint64_t value = 0;
  wait_for([&] {
    store(value % 4, value + 1);
    ++value;
    return manager.statistics().epochs >= 20;
  });
  manager.stop();
  const EpochStatistics statistics = manager.statistics();
  EXPECT_EQ(statistics.pause_ns.count(), static_cast<uint64_t>(host_.barriers));
  EXPECT_GT(statistics.pause_ns.quantile(0.5), 0U);
  EXPECT_EQ(statistics.interval, milliseconds(2));
  EXPECT_GT(statistics.logged_bytes, 0U);
  EXPECT_EQ(host_.failures, 0);
}

TEST_F(EpochManagerTest, AFlushIsAnsweredWhenItsStoresAreDurable) {
  create(64 * kMiB);
  EpochManager& manager = start(image(), kNever);
  for (uint64_t i = 1; i <= 20; ++i) {
    store(i, i);
    const auto epoch = flush(manager);
    ASSERT_TRUE(epoch) << epoch.error().message;
    // Read by the engine, which shows what was logged.
    guarded_->with([&](Region&) { EXPECT_EQ(image_mark(image(), i), i); });
    store(i, 1000);
  }
  store(30, 30);
  must(flush(manager));
  store(31, 31);  // after the last flush
  stop();
  drop();
  open();
  EXPECT_EQ(image_mark(image(), 30), 30U);
  EXPECT_EQ(image_mark(image(), 20), 1000U);
  EXPECT_EQ(image_mark(image(), 31), 0U);
}

TEST_F(EpochManagerTest, AFlushOfAManagerThatDoesNotRunFails) {
  create(8 * kMiB);
  EpochManager& manager = start(image(), kNever);
  manager.stop();
  EXPECT_EQ(flush(manager).error().code, pcow::Code::kInvalid);
  manager.stop();
}

TEST_F(EpochManagerTest, AHostThatCannotBeQuietIsAskedAgain) {
  create(8 * kMiB);
  host_.refusals = 3;
  EpochManager& manager = start(image(), kNever);
  store(1, 1);
  must(flush(manager));
  EXPECT_EQ(host_.refusals, 0);
  EXPECT_EQ(host_.barriers, 1);
}

TEST_F(EpochManagerTest, AFullMediumFailsAnEpochAndItsFlushesAndTheNextOneSucceeds) {
  create(8 * kMiB);
  ImageDecorator decorator(image());
  decorator.failure = pcow::Code::kNoSpace;
  decorator.fail_commit_in = 1;
  EpochManager& manager = start(decorator, kNever);
  store(1, 1);
  EXPECT_EQ(flush(manager).error().code, pcow::Code::kNoSpace);
  must(flush(manager));
  EXPECT_EQ(host_.failures, 1);
  EXPECT_FALSE(host_.has_ended);
  manager.stop();
  EXPECT_EQ(host_.recoveries, 1);
  EXPECT_EQ(manager.statistics().failed_epochs, 1U);
  EXPECT_EQ(image_mark(image(), 1), 1U);
  stop();
}

TEST_F(EpochManagerTest, ABrokenMediumEndsIt) {
  create(8 * kMiB);
  ImageDecorator decorator(image());
  decorator.failure = pcow::Code::kIo;
  decorator.fail_log_in = 1;
  EpochManager& manager = start(decorator, kNever);
  store(1, 1);
  EXPECT_EQ(flush(manager).error().code, pcow::Code::kIo);
  wait_for([&] { return host_.has_ended.load(); });
  EXPECT_FALSE(flush(manager));
  stop();
}

TEST_F(EpochManagerTest, AnIdleGuestIsNotStopped) {
  create(8 * kMiB);
  EpochManager& manager = start(image(), kFast);
  const bool tracked = must(region_status()).tracker == TrackerKind::kPagemapScan;
  store(1, 1);
  wait_for([&] { return manager.statistics().epochs >= 1; });
  const uint64_t rounds = manager.statistics().precopy_rounds;
  const int barriers = host_.barriers;
  wait_for([&] { return manager.statistics().precopy_rounds >= rounds + 20; });
  if (tracked) {
    EXPECT_LE(host_.barriers, barriers + 1);
  }
  guarded_->with([](Region& region) { must(region.pin(0, 1)); });
  wait_for([&] { return host_.barriers > barriers + 1; });
}

// A guest that stores to every page again as soon as it is logged.
class RestlessImage final : public ImageDecorator {
 public:
  using ImageDecorator::ImageDecorator;
  Region* region = nullptr;

  pcow::Result<pcow::LogReport> log_pages(std::span<const pcow::PageWrite> pages) override {
    const auto report = ImageDecorator::log_pages(pages);
    for (const pcow::PageWrite& page : pages) guest_store(*region, page.page.value, ++value_);
    return report;
  }

 private:
  uint64_t value_ = 0;
};

TEST_F(EpochManagerTest, RoundsThatGainNothingAreLeftOut) {
  create(64 * kMiB);
  RestlessImage restless(image());
  EpochManager& manager = start(restless, kFast);
  if (must(region_status()).tracker != TrackerKind::kPagemapScan) GTEST_SKIP() << "no rounds";
  guarded_->with([&](Region& region) { restless.region = &region; });
  constexpr uint64_t kPages = 10000;
  for (uint64_t page = 0; page < kPages; ++page) store(page, page);
  wait_for([&] { return manager.statistics().epochs >= 30; });
  manager.stop();
  const EpochStatistics now = manager.statistics();
  EXPECT_GT(now.precopy_rounds, 0U) << "now and then they are tried";
  EXPECT_LT(now.precopy_rounds, now.epochs);
  EXPECT_GE(now.residue_pages, now.epochs / 2 * kPages);
}

TEST_F(EpochManagerTest, TheLogGrowsUntilItHasRoomForAGuestThatStoresToAllPages) {
  constexpr uint64_t kSize = 16 * kMiB;
  constexpr uint64_t kPages = kSize / kPageSize;
  must(pcow::Image::create(path(), {.virtual_size = kSize, .log_size = 4 * kMiB}));
  open();
  EpochManager& manager = start(image(), kNever);
  const auto store_to_all = [&] {
    for (uint64_t page = 0; page < kPages; ++page) store(page, page + 1);
  };
  const auto log_size = [&] {
    return guarded_->with([](Region& region) { return region.log_state().size; });
  };
  wait_for([&] {
    store_to_all();
    return log_size() > 3 * kSize;
  });
  EXPECT_LE(log_size(), 3 * kSize + 2 * kMiB) << "more is of no use";
  EXPECT_EQ(host_.growths, 4);
  must(flush(manager));
  const EpochStatistics before = manager.statistics();
  store_to_all();
  store_to_all();
  std::this_thread::sleep_for(milliseconds(50));
  must(flush(manager));
  const EpochStatistics now = manager.statistics();
  EXPECT_EQ(now.early_epochs, before.early_epochs);
  EXPECT_EQ(now.holds, before.holds);
  EXPECT_EQ(now.epochs, before.epochs + 1);
}

// Long before the interval ends.
TEST_F(EpochManagerTest, AnEpochEndsEarlyWhenTheLogWouldNotTakeMore) {
  must(pcow::Image::create(path(), {.virtual_size = 64 * kMiB, .log_size = 4 * kMiB}));
  open();
  EpochManager& manager = start(image(), kNever);
  uint64_t page = 0;
  wait_for([&] {
    for (int i = 0; i < 20; ++i, ++page) store(page % 16000, page + 1);
    return manager.statistics().epochs >= 5;
  });
  manager.stop();
  EXPECT_GE(manager.statistics().early_epochs, 5U);
  EXPECT_EQ(host_.failures, 0);
}

TEST_F(EpochManagerTest, DramIsKeptWithinItsSize) {
  create(64 * kMiB);
  EpochManager& manager = start(image(), kFast, kMiB);
  for (uint64_t page = 0; page < 4000; ++page) store(page, page + 1);
  wait_for([&] {
    return guarded_->with(
        [](Region& region) { return must(region.status()).dram_resident_bytes <= kMiB; });
  });
  manager.stop();
  EXPECT_GT(manager.statistics().demoted_pages, 3000U);
  for (uint64_t page = 0; page < 4000; ++page) ASSERT_EQ(mark(*region_, page), page + 1);
}

}  // namespace
}  // namespace tiering::testing
