// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs: what log_pages(), commit() and checkpoint() promise, one thing a test.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>

#include "tests/unit/pcow/epoch_fixture.h"

namespace pcow {
namespace {

TEST_F(EpochTest, WhatIsLoggedIsReadAtOnceAndGoneWithoutACommit) {
  commit_page(5, a_);
  ASSERT_OK(log(5, b_));
  ASSERT_OK(log(6, b_));
  EXPECT_EQ(read(5), b_);
  EXPECT_EQ(read(6), b_);
  test::Page part(100);
  ASSERT_OK(image_->read(5 * kPageSize + 30, part));
  EXPECT_EQ(std::memcmp(part.data(), b_.data() + 30, part.size()), 0);
  crash();
  EXPECT_EQ(read(5), a_);
  EXPECT_EQ(read(6), zero_);
  EXPECT_EQ(image_->info().committed_epoch, Epoch(1));
  EXPECT_EQ(image_->info().allocated_bytes, kPageSize);
}

TEST_F(EpochTest, ACommitNeedsNoCheckpoint) {
  own(5, 1);
  const std::string before = in_file(5);
  commit_page(5, a_);
  EXPECT_EQ(in_file(5), before);
  EXPECT_TRUE(image_->logged_pages(ChunkIndex(0)).value()[5]);
  crash();
  EXPECT_EQ(read(5), a_);
  EXPECT_TRUE(image_->info().recovered);
  EXPECT_EQ(image_->info().recovery.transactions, 1u);
  EXPECT_GT(image_->info().recovery.log_bytes, kPageSize);
  EXPECT_FALSE(image_->logged_pages(ChunkIndex(0)).value()[5]);
}

TEST_F(EpochTest, OnlyLinesThatDifferAreLogged) {
  commit_page(5, a_);
  ASSERT_OK(image_->checkpoint(kAll));
  const auto report = log(5, with_line(a_, 9, 0x77));
  ASSERT_OK(report);
  EXPECT_EQ(report->changed_pages, 1u);
  EXPECT_EQ(report->logged_bytes, 2 * kLineSize);
  ASSERT_OK(image_->commit());
  EXPECT_EQ(log(5, with_line(a_, 9, 0x77))->logged_bytes, 2 * kLineSize);  // of the earlier record
}

TEST_F(EpochTest, APageThatDidNotChangeIsNoEpoch) {
  commit_page(5, a_);
  ASSERT_OK(image_->checkpoint(kAll));
  EXPECT_EQ(log(5, a_)->changed_pages, 0u);
  EXPECT_EQ(log(6, zero_)->changed_pages, 0u);
  EXPECT_EQ(image_->commit().value(), Epoch(1));
}

TEST_F(EpochTest, ALineThatWentBackIsNotLost) {
  commit_page(5, a_);
  ASSERT_OK(image_->checkpoint(kAll));
  commit_page(5, b_);
  commit_page(5, a_);
  EXPECT_EQ(read(5), a_);
  crash();
  EXPECT_EQ(read(5), a_);
}

TEST_F(EpochTest, ACheckpointStoresNothingOfTheEpochUnderWay) {
  own(5, 2);
  const std::string before = in_file(6);
  commit_page(5, a_);
  ASSERT_OK(log(5, b_));
  ASSERT_OK(log(6, b_));
  const auto report = image_->checkpoint(kAll);
  ASSERT_OK(report);
  EXPECT_TRUE(report->done);
  EXPECT_EQ(report->stored_pages, 1u);
  EXPECT_EQ(in_file(5), std::string(reinterpret_cast<const char*>(a_.data()), kPageSize));
  EXPECT_EQ(in_file(6), before);
  EXPECT_EQ(read(5), b_);
  EXPECT_GT(image_->log_state().under_way, 0u);
  EXPECT_EQ(image_->log_state().committed, 0u);
  ASSERT_OK(image_->commit());
  crash();
  EXPECT_EQ(read(5), b_);
  EXPECT_EQ(read(6), b_);
}

TEST_F(EpochTest, ACheckpointIsDoneInParts) {
  own(0, 10);
  ASSERT_OK(log_run(0, 10, 1));
  ASSERT_OK(image_->commit());
  EXPECT_FALSE(image_->checkpoint(4)->done);
  ASSERT_OK(log_run(2, 4, 3));  // stored ones and others
  EXPECT_FALSE(image_->checkpoint(4)->done);
  ASSERT_OK(image_->commit());
  const auto last = image_->checkpoint(4);
  ASSERT_OK(last);
  EXPECT_TRUE(last->done);
  EXPECT_GT(image_->log_state().committed, 0u);  // of the second epoch
  EXPECT_TRUE(image_->checkpoint(kAll)->done);
  EXPECT_EQ(image_->log_state().committed, 0u);
  for (uint64_t page = 0; page < 10; ++page) {
    EXPECT_EQ(read(page), test::pattern_page(page >= 2 && page < 6 ? 3 : 1));
  }
  EXPECT_EQ(image_->checkpoint(kAll)->stored_pages, 0u);
}

TEST_F(EpochTest, ZeroPagesBecomeHoles) {
  own(0, 256);
  ASSERT_OK(log_run(0, 256, 1));  // so that the log has its space
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->checkpoint(kAll));
  const uint64_t full = image_->info().disk_bytes;
  std::vector<PageWrite> writes;
  for (uint64_t page = 0; page < 256; ++page) writes.push_back({PageIndex(page), zero_.data()});
  ASSERT_OK(image_->log_pages(writes));
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->checkpoint(kAll));
  // A file system may give back what it kept of them besides.
  EXPECT_LE(image_->info().disk_bytes, full - 256 * kPageSize);
  EXPECT_EQ(read(7), zero_);
  commit_page(7, b_);
  crash();
  EXPECT_EQ(read(7), b_);
  EXPECT_EQ(read(8), zero_);
}

// However many they are: far more than the log could hold as lines.
TEST_F(EpochTest, ZerosTakeABitOfLogEach) {
  constexpr uint64_t kPages = 6 * kPagesPerChunk;  // three times the log
  own(0, kPages);
  commit_page(kPagesPerChunk, a_);
  std::vector<PageWrite> writes;
  for (uint64_t page = 1; page < kPages; ++page) writes.push_back({PageIndex(page), zero_.data()});
  const auto report = image_->log_pages(writes);
  ASSERT_OK(report);
  EXPECT_EQ(report->changed_pages, kPages - 1);
  EXPECT_LE(report->logged_bytes, 6 * 128u);
  ASSERT_OK(image_->commit());
  ASSERT_OK(log_run(kPagesPerChunk + 4, 2, 3));
  ASSERT_OK(image_->commit());
  const auto expect_content = [this](const Image& image) {
    EXPECT_EQ(test::read_page(image, 0), test::pattern_page(kOwned));
    EXPECT_EQ(test::read_page(image, kPagesPerChunk + 4), test::pattern_page(3));
    for (const uint64_t page : {uint64_t{1}, kPagesPerChunk, kPagesPerChunk + 6, kPages - 1}) {
      EXPECT_EQ(test::read_page(image, page), zero_) << page;
    }
  };
  expect_content(*image_);
  image_.reset();
  {
    OpenOptions options;
    options.replay_in_memory = true;
    const auto reader = Image::open(path_, options);
    ASSERT_OK(reader);
    expect_content(**reader);
    EXPECT_TRUE((*reader)->logged_pages(ChunkIndex(1)).value()[6]);
  }
  test::expect_clean_check(path_, true);
  crash();
  expect_content(*image_);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

// Data over zeros, and zeros over data, in one epoch and over epochs, none of them checkpointed.
TEST_F(EpochTest, ZerosAndDataTakeTurns) {
  own(0, 8);
  const auto expect_content = [this] {
    EXPECT_EQ(read(0), zero_);
    EXPECT_EQ(read(1), with_line(zero_, 5, 7));
    EXPECT_EQ(read(2), a_);
    EXPECT_EQ(read(3), zero_);
    EXPECT_EQ(read(4), test::pattern_page(kOwned));
  };
  ASSERT_OK(log(0, a_));
  ASSERT_OK(log(0, zero_));
  ASSERT_OK(log(1, zero_));
  ASSERT_OK(log(1, with_line(zero_, 5, 7)));
  commit_page(2, zero_);
  ASSERT_OK(log(3, a_));
  ASSERT_OK(log(4, zero_));
  commit_page(2, a_);
  ASSERT_OK(log(4, test::pattern_page(kOwned)));
  commit_page(3, zero_);
  ASSERT_OK(log(1, zero_));  // never committed
  crash();
  expect_content();
  commit_page(1, zero_);
  commit_page(2, zero_);
  ASSERT_OK(log(1, with_line(zero_, 5, 7)));
  ASSERT_OK(image_->checkpoint(kAll));
  ASSERT_OK(log(2, a_));
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->checkpoint(kAll));
  expect_content();
  EXPECT_EQ(in_file(0), std::string(kPageSize, '\0'));
  crash();
  expect_content();
}

// Nobody owned them, so they are stored at their places at once, and become part of the image
// together all the same.
TEST_F(EpochTest, NewPagesTakeNoLog) {
  constexpr uint64_t kPages = 4 * kLogSize / kPageSize;
  commit_page(3, a_);
  ASSERT_OK(log_run(100, kPages, 1));
  ASSERT_OK(log(100, b_));     // again
  ASSERT_OK(log(101, zero_));  // not any more
  EXPECT_LT(image_->log_state().under_way, kLogSize / 16);
  EXPECT_FALSE(image_->logged_pages(ChunkIndex(0)).value()[100]);
  EXPECT_EQ(read(100), b_);
  ASSERT_OK(image_->commit());
  crash();
  EXPECT_EQ(read(3), a_);
  EXPECT_EQ(read(100), b_);
  EXPECT_EQ(read(101), zero_);
  for (uint64_t page = 102; page < 100 + kPages; ++page) {
    ASSERT_EQ(read(page), test::pattern_page(1)) << page;
  }
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, NewPagesOfAnEpochThatNeverWasAreZeros) {
  commit_page(3, a_);
  ASSERT_OK(log_run(100, 3000, 1));
  ASSERT_OK(log(kPagesPerSegment, b_));  // a segment that the image does not have yet
  image_.reset();
  test::expect_clean_check(path_, true);
  image_ = test::open_image(path_);
  // Owned again, for another page's sake: the guest sees what its neighbours hold.
  commit_page(100, b_);
  EXPECT_EQ(read(100), b_);
  expect_nothing_behind(100);
  commit_page(1024, b_);
  expect_nothing_behind(1024);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, NewPagesOfAnEpochThatIsDroppedAreZeros) {
  commit_page(3, a_);
  ASSERT_OK(image_->create_snapshot("s"));
  ASSERT_OK(log_run(100, 600, 1));
  ASSERT_OK(image_->apply_snapshot("s"));
  commit_page(100, b_);
  expect_nothing_behind(100);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, CloseDropsTheEpochUnderWay) {
  commit_page(5, a_);
  ASSERT_OK(log(5, b_));
  ASSERT_OK(log(kPagesPerSegment, b_));
  ASSERT_OK(image_->close());
  EXPECT_EQ(read(5), a_);
  image_.reset();
  test::expect_clean_check(path_, true);
  image_ = test::open_image(path_);
  EXPECT_FALSE(image_->info().recovered);
  EXPECT_EQ(read(5), a_);
  EXPECT_EQ(read(kPagesPerSegment), zero_);
}

TEST_F(EpochTest, PagesInPlaceWaitForTheEpoch) {
  ASSERT_OK(log(5, a_));
  const PageWrite write{PageIndex(5), b_.data()};
  EXPECT_EQ(image_->write_pages(std::span(&write, 1)).error().code, Code::kInvalid);
  EXPECT_EQ(image_->resize(kGiB, true).error().code, Code::kInvalid);
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->write_pages(std::span(&write, 1)));
  ASSERT_OK(image_->commit());
  crash();
  EXPECT_EQ(read(5), b_);
}

TEST_F(EpochTest, ASnapshotKeepsWhatIsStillInTheLog) {
  commit_page(5, b_);
  ASSERT_OK(log(5, a_));
  ASSERT_OK(image_->create_snapshot("s"));
  EXPECT_TRUE(image_->logged_pages(ChunkIndex(0)).value()[5]);
  commit_page(5, with_line(a_, 1, 0x11));
  EXPECT_EQ(read(5), with_line(a_, 1, 0x11));
  ASSERT_OK(log(5, b_));
  ASSERT_OK(image_->apply_snapshot("s"));  // drops the epoch
  EXPECT_EQ(read(5), a_);
  commit_page(5, zero_);
  EXPECT_EQ(read(5), zero_);
  crash();
  EXPECT_EQ(read(5), zero_);
  ASSERT_OK(image_->delete_snapshot("s"));
  EXPECT_EQ(read(5), zero_);
  ASSERT_OK(image_->close());
  test::expect_clean_check(path_, true);
}

TEST_F(EpochTest, WhatIsGivenMustAscendAndLieInTheImage) {
  const PageWrite descending[] = {{PageIndex(2), a_.data()}, {PageIndex(1), a_.data()}};
  EXPECT_EQ(image_->log_pages(descending).error().code, Code::kInvalid);
  EXPECT_EQ(log(4 * kGiB / kPageSize, a_).error().code, Code::kInvalid);
  EXPECT_FALSE(image_->logged_pages(ChunkIndex(4 * kGiB / kChunkSize)).has_value());
  ASSERT_OK(image_->log_pages({}));
  image_.reset();
  image_ = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(log(0, a_).error().code, Code::kInvalid);
  EXPECT_EQ(image_->checkpoint(1).error().code, Code::kInvalid);
}

}  // namespace
}  // namespace pcow
