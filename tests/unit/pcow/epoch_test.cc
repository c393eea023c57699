// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs: what log_pages(), commit() and checkpoint() promise, one thing a test.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

constexpr uint64_t kAll = UINT64_MAX;
constexpr uint64_t kLogSize = 4 * kMiB;

class EpochTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::create_image(path_, 4 * kGiB, kLogSize);
    image_ = test::open_image(path_);
  }

  Result<LogReport> log(uint64_t page, const test::Page& data) {
    const PageWrite write{PageIndex(page), data.data()};
    return image_->log_pages(std::span(&write, 1));
  }
  Result<LogReport> log_run(uint64_t first, uint64_t count, uint64_t value) {
    const test::Page data = test::pattern_page(value);
    std::vector<PageWrite> writes;
    for (uint64_t page = first; page < first + count; ++page) {
      writes.push_back({PageIndex(page), data.data()});
    }
    return image_->log_pages(writes);
  }
  void commit_page(uint64_t page, const test::Page& data) {
    ASSERT_OK(log(page, data));
    ASSERT_OK(image_->commit());
  }
  // Pages that need the log from now on.
  void own(uint64_t first, uint64_t count) {
    ASSERT_OK(log_run(first, count, kOwned));
    ASSERT_OK(image_->commit());
    ASSERT_OK(image_->checkpoint(kAll));
  }
  void crash() {
    image_.reset();
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }
  test::Page read(uint64_t page) const { return test::read_page(*image_, page); }
  // What a mapping of the place of a page, which is owned, shows; or of a neighbour's.
  std::string in_file(uint64_t page, uint64_t neighbour = 0) {
    uint64_t place = 0;
    EXPECT_TRUE(image_
                    ->map(page * kPageSize, kPageSize,
                          [&](const MapExtent& run) { place = run.file_offset.value_or(0); })
                    .has_value());
    return test::file_bytes(path_, place + neighbour * kPageSize, kPageSize);
  }
  // The place of no page behind this one in its chunk holds anything.
  void expect_nothing_behind(uint64_t page) {
    const std::string zeros(kPageSize, '\0');
    for (uint64_t i = 1; page_in_chunk(PageIndex(page)) + i < kPagesPerChunk; ++i) {
      ASSERT_EQ(in_file(page, i), zeros) << page + i;
    }
  }

  static test::Page with_line(test::Page page, uint64_t line, uint8_t value) {
    std::memset(page.data() + line * kLineSize, value, kLineSize);
    return page;
  }

  static constexpr uint64_t kOwned = 4711;

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  std::unique_ptr<Image> image_;
  const test::Page a_ = test::pattern_page(1);
  const test::Page b_ = test::pattern_page(2);
  const test::Page zero_ = test::Page(kPageSize);
};

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
  EXPECT_EQ(before.size_max, 768 * kMiB);
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
