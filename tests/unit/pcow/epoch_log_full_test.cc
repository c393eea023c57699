// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs that the log has no room for: refused, or begun again in a larger log.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "tests/unit/pcow/epoch_fixture.h"

namespace pcow {
namespace {

TEST_F(EpochTest, AFullLogCheckpointsWhatIsCommitted) {
  for (uint64_t epoch = 1; epoch <= 10; ++epoch) {
    ASSERT_OK(log_run(epoch % 3 * 100, 600, epoch));
    ASSERT_OK(image_->commit());
  }
  for (uint64_t page = 100; page < 700; ++page) EXPECT_EQ(read(page), test::pattern_page(10));
  crash();
  EXPECT_EQ(image_->info().committed_epoch, Epoch(10));
  for (uint64_t page = 100; page < 700; ++page) EXPECT_EQ(read(page), test::pattern_page(10));
}

TEST_F(EpochTest, AnEpochThatDoesNotFitIsRefusedAndTheRestCommitted) {
  own(1000, 1100);
  uint64_t pages = 0;
  for (;; pages += 50) {
    const uint64_t room = image_->log_state().room_pages;
    const auto report = log_run(1000 + pages, 50, pages);
    if (!report) {
      EXPECT_EQ(report.error().code, Code::kLogFull) << report.error().message;
      EXPECT_LT(room, 50u);
      break;
    }
  }
  // The header says so: 4,160 bytes a page, 50 KiB a GiB, and 32 KiB.
  EXPECT_GE((pages + 50) * 4160 + 50 * kKiB + 32 * kKiB, kLogSize);
  EXPECT_EQ(read(1000 + pages), test::pattern_page(kOwned));
  EXPECT_EQ(read(1000), test::pattern_page(0));
  ASSERT_OK(image_->commit());
  crash();
  for (uint64_t page = 0; page < pages; ++page) {
    EXPECT_EQ(read(1000 + page), test::pattern_page(page / 50 * 50));
  }
  EXPECT_EQ(read(1000 + pages), test::pattern_page(kOwned));
  EXPECT_EQ(image_->info().allocated_bytes, 1100 * kPageSize);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, AnEpochThatDoesNotFitBeginsAgainInALargerLog) {
  own(1000, 1100);
  commit_page(5000, b_);  // in the log alone
  ASSERT_OK(log_run(1000, 500, 1));
  ASSERT_OK(log_run(3000, 300, 1));  // nobody owned them
  ASSERT_EQ(log_run(1500, 600, 1).error().code, Code::kLogFull);
  ASSERT_OK(image_->restart_epoch(2 * kLogSize));
  EXPECT_EQ(image_->log_state().size, 2 * kLogSize);
  EXPECT_EQ(image_->log_state().under_way, 0u);
  EXPECT_EQ(image_->log_state().committed, 0u);
  EXPECT_EQ(image_->info().allocated_bytes, 1101 * kPageSize);
  EXPECT_EQ(read(1000), test::pattern_page(kOwned));
  EXPECT_EQ(read(3000), zero_);
  EXPECT_EQ(std::memcmp(in_file(5000).data(), b_.data(), kPageSize), 0);
  ASSERT_OK(log_run(1000, 1100, 2));
  ASSERT_OK(log_run(3000, 300, 2));
  EXPECT_EQ(image_->commit().value(), Epoch(3));
  crash();
  EXPECT_EQ(image_->info().log_size, 2 * kLogSize);
  for (uint64_t page = 1000; page < 2100; ++page) EXPECT_EQ(read(page), test::pattern_page(2));
  for (uint64_t page = 3000; page < 3300; ++page) EXPECT_EQ(read(page), test::pattern_page(2));
  EXPECT_EQ(read(5000), b_);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
  image_ = test::open_image(path_);
  EXPECT_EQ(image_->log_state().size, 2 * kLogSize) << "it stays that large";
}

// Beyond the first segment: to segments of its own, once.
TEST_F(EpochTest, ALogThatIsTooLargeForTheFirstSegmentMoves) {
  own(1000, 1100);
  ASSERT_OK(log_run(1000, 500, 1));
  ASSERT_OK(image_->restart_epoch(768 * kMiB));
  const uint64_t segments = std::filesystem::file_size(path_) / kGiB;
  ASSERT_OK(log_run(1000, 1100, 2));
  ASSERT_OK(image_->restart_epoch(1500 * kMiB));
  EXPECT_EQ(read(1000), test::pattern_page(kOwned));
  EXPECT_EQ(std::filesystem::file_size(path_) / kGiB, segments + 4);
  ASSERT_OK(log_run(1000, 1100, 3));
  EXPECT_EQ(image_->commit().value(), Epoch(2));
  crash();
  EXPECT_EQ(image_->info().log_size, 1500 * kMiB);
  EXPECT_EQ(image_->info().recovery.pages, 1101u);
  for (uint64_t page = 1000; page < 2100; ++page) EXPECT_EQ(read(page), test::pattern_page(3));
  ASSERT_OK(log_run(1000, 1100, 4));
  ASSERT_OK(image_->restart_epoch(4 * kGiB - kWindowSize));
  ASSERT_OK(log_run(1000, 1100, 5));
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
  EXPECT_EQ(std::filesystem::file_size(path_) / kGiB, segments + 4);
  image_ = test::open_image(path_);
  for (uint64_t page = 1000; page < 2100; ++page) EXPECT_EQ(read(page), test::pattern_page(5));
}

TEST_F(EpochTest, ACrashAfterAnEpochWasDroppedLeavesNothingOfIt) {
  own(0, 10);
  ASSERT_OK(log_run(0, 10, 1));
  ASSERT_OK(log_run(600, 10, 1));
  ASSERT_OK(image_->restart_epoch(2 * kLogSize));
  crash();
  EXPECT_EQ(image_->info().committed_epoch, Epoch(1));
  EXPECT_EQ(read(9), test::pattern_page(kOwned));
  EXPECT_EQ(read(600), zero_);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, ALogOfImpossibleSizeIsRefusedAndTheEpochGoesOn) {
  own(0, 10);
  ASSERT_OK(log_run(0, 10, 1));
  const LogState before = image_->log_state();
  EXPECT_EQ(before.size_max, 4 * kGiB - kWindowSize);
  for (const uint64_t size : {kLogSize - kWindowSize, kLogSize + kPageSize, uint64_t{0},
                              before.size_max + kWindowSize, UINT64_MAX - kWindowSize + 1}) {
    const auto result = image_->restart_epoch(size);
    ASSERT_FALSE(result.has_value()) << size;
    EXPECT_EQ(result.error().code, Code::kInvalid);
    EXPECT_EQ(image_->log_state().under_way, before.under_way);
  }
  EXPECT_EQ(image_->commit().value(), Epoch(2));
  EXPECT_EQ(read(0), test::pattern_page(1));
  ASSERT_OK(image_->restart_epoch(before.size_max));
  ASSERT_OK(log_run(0, 10, 2));
  ASSERT_OK(image_->commit());
  crash();
  EXPECT_EQ(read(9), test::pattern_page(2));
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, ACallThatIsTooLargeIsRefusedWithoutATrace) {
  constexpr uint64_t kPages = kLogSize / kPageSize;
  own(0, kPages);
  const auto report = log_run(0, kPages, 1);
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, Code::kLogFull);
  EXPECT_EQ(image_->info().allocated_bytes, kPages * kPageSize);
  EXPECT_EQ(image_->log_state().under_way, 0u);
  EXPECT_EQ(read(0), test::pattern_page(kOwned));
  EXPECT_EQ(image_->commit().value(), Epoch(1));
  // As many pages of which little changes fit.
  std::vector<test::Page> pages(kPages, with_line(test::pattern_page(kOwned), 3, 1));
  std::vector<PageWrite> writes;
  for (uint64_t page = 0; page < pages.size(); ++page) {
    writes.push_back({PageIndex(page), pages[page].data()});
  }
  ASSERT_OK(image_->log_pages(writes));
  EXPECT_EQ(image_->commit().value(), Epoch(2));
}

}  // namespace
}  // namespace pcow
