// SPDX-License-Identifier: BSD-3-Clause
//
// Content that is given up: it is gone at once, for good, and so is the space that it took.
#include <gtest/gtest.h>

#include <cstdio>
#include <utility>

#include "tests/unit/pcow/layered_image.h"

namespace pcow {
namespace {

const test::Page kZeroPage(kPageSize);

class DiscardTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = 3 * kGiB;

  void create() {
    test::create_image(path_, kSize, 4 * kMiB);
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }
  void write_run(uint64_t first, uint64_t count) {
    test::PageBatch batch;
    for (uint64_t page = first; page < first + count; ++page) {
      batch.add(page, test::pattern_page(page));
    }
    ASSERT_OK(image_->write_pages(batch.writes()));
    ASSERT_OK(image_->commit());
  }
  void log(uint64_t page, uint64_t value) {
    test::PageBatch batch;
    batch.add(page, test::pattern_page(value));
    ASSERT_OK(image_->log_pages(batch.writes()));
    ASSERT_OK(image_->commit());
  }
  void expect_page(uint64_t page, const test::Page& content) {
    EXPECT_EQ(test::read_page(*image_, page), content) << "page " << page;
  }
  // As after a crash of the process.
  void reopen_unclosed() {
    image_.reset();
    test::expect_clean_check(path_);
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }
  void close() {
    ASSERT_OK(image_->close());
    image_.reset();
    test::expect_clean_check(path_);
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  std::unique_ptr<Image> image_;
};

TEST_F(DiscardTest, GivesTheSpaceBackAtOnce) {
  create();
  write_run(100, 2000);
  write_run(kPagesPerSegment, 600);
  const uint64_t owned = image_->info().allocated_bytes;
  const uint64_t taken = image_->info().disk_bytes;
  // From the middle of a chunk to the middle of another, with whole ones in between.
  const auto discarded = image_->discard(PageIndex(300), 1500);
  ASSERT_OK(discarded);
  EXPECT_EQ(*discarded, 1500u);
  EXPECT_EQ(image_->info().allocated_bytes, owned - 1500 * kPageSize);
  EXPECT_LE(image_->info().disk_bytes, taken - 1500 * kPageSize + 64 * kKiB);
  ASSERT_EQ(image_->discard(PageIndex(kPagesPerSegment), 1).value(), 1u);
  const auto expect_content = [this] {
    for (const uint64_t page : {100u, 299u, 1800u, 2099u}) {
      expect_page(page, test::pattern_page(page));
    }
    expect_page(kPagesPerSegment + 1, test::pattern_page(kPagesPerSegment + 1));
    for (const uint64_t page : {uint64_t{300}, uint64_t{1000}, uint64_t{1799}, kPagesPerSegment}) {
      expect_page(page, kZeroPage);
    }
    EXPECT_TRUE(image_->page_map(ChunkIndex(1)).value().none());
    EXPECT_EQ(image_->layout(GibIndex(0)).value().chunks[1].kind, GibLayout::Kind::kHole);
  };
  expect_content();
  reopen_unclosed();
  expect_content();
  close();
}

TEST_F(DiscardTest, WhatWasNeverWrittenStaysUntouched) {
  create();
  write_run(7, 1);
  ASSERT_OK(image_->close());
  image_ = test::open_image(path_);
  const std::string before = test::file_bytes(path_, 0, 4 * kMiB);
  EXPECT_EQ(image_->discard(PageIndex(8), 2 * kPagesPerSegment).value(), 0u);
  EXPECT_EQ(image_->discard(PageIndex(0), 0).value(), 0u);
  EXPECT_EQ(image_->discard(PageIndex(kSize / kPageSize), 0).value(), 0u);
  EXPECT_EQ(test::file_bytes(path_, 0, 4 * kMiB), before);
  expect_page(7, test::pattern_page(7));
  close();
}

TEST_F(DiscardTest, IsANewEpoch) {
  create();
  write_run(7, 1);
  const Epoch epoch = image_->commit().value();
  ASSERT_OK(image_->discard(PageIndex(7), 1));
  EXPECT_EQ(image_->commit().value(), epoch + 1);
  ASSERT_OK(image_->discard(PageIndex(7), 1));
  EXPECT_EQ(image_->commit().value(), epoch + 1);
  close();
}

// What the log holds of discarded pages is not stored over the next owner's.
TEST_F(DiscardTest, WhatTheLogHoldsDoesNotComeBack) {
  create();
  write_run(0, 4);
  log(1, 11);
  log(2, 12);
  log(kPagesPerSegment, 13);
  ASSERT_OK(image_->discard(PageIndex(1), 2));
  ASSERT_OK(image_->discard(PageIndex(kPagesPerSegment), 1));
  test::write_page(*image_, 2, test::pattern_page(22));
  ASSERT_OK(image_->commit());
  reopen_unclosed();
  expect_page(0, test::pattern_page(0));
  expect_page(1, kZeroPage);
  expect_page(2, test::pattern_page(22));
  expect_page(3, test::pattern_page(3));
  expect_page(kPagesPerSegment, kZeroPage);
  close();
}

TEST_F(DiscardTest, RefusesWhatItCannotDo) {
  create();
  const uint64_t end = kSize / kPageSize;
  for (const auto& [first, count] :
       {std::pair{end, uint64_t{1}}, std::pair{uint64_t{1}, end},
        std::pair{uint64_t{2}, UINT64_MAX}, std::pair{UINT64_MAX, uint64_t{1}}}) {
    EXPECT_EQ(image_->discard(PageIndex(first), count).error().code, Code::kInvalid);
  }
  test::PageBatch batch;
  batch.add(3, test::pattern_page(3));
  ASSERT_OK(image_->log_pages(batch.writes()));
  EXPECT_EQ(image_->discard(PageIndex(3), 1).error().code, Code::kInvalid);
  ASSERT_OK(image_->commit());
  close();
  const auto reader = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(reader->discard(PageIndex(3), 1).error().code, Code::kInvalid);
  EXPECT_EQ(test::read_page(*reader, 3), test::pattern_page(3));
}

// Snapshots keep what is discarded, and what they hold does not come up.
TEST_F(LayeredImageTest, DiscardHidesWhatSnapshotsHold) {
  make_image();
  const std::vector<uint64_t> pages = {
      0, 7, 8, 9, 512, 5 * kPagesPerChunk, kPagesPerSegment, kPagesPerSegment + 3};
  {
    const auto image = test::open_image(path_);
    const uint64_t taken = image->info().disk_bytes;
    // What the active layer has alone, or over others, is three pages; five are hidden.
    EXPECT_EQ(image->discard(PageIndex(0), 2 * kPagesPerSegment).value(), 3u + 5u);
    EXPECT_LE(image->info().disk_bytes, taken - 3 * kPageSize + 512 * kKiB);
    for (const uint64_t page : pages) EXPECT_EQ(test::read_page(*image, page), kZeroPage) << page;
    ASSERT_OK(image->create_snapshot("empty"));
    test::write_page(*image, 7, test::pattern_page(4));
    ASSERT_OK(image->close());
  }
  test::expect_clean_check(path_);
  const auto expect_kept = [&](const std::string& name, uint64_t page, uint64_t round) {
    OpenOptions options;
    options.snapshot = name;
    const auto image = Image::open(path_, options);
    ASSERT_OK(image);
    EXPECT_EQ(test::read_page(**image, page),
              round == 0 ? kZeroPage : test::pattern_page(page * 16 + round))
        << name << ", page " << page;
  };
  expect_kept("old", 0, 1);
  expect_kept("old", kPagesPerSegment + 3, 1);
  expect_kept("new", 0, 2);
  expect_kept("new", 512, 1);
  for (const uint64_t page : pages) expect_kept("empty", page, 0);
  const auto image = test::open_image(path_);
  for (const std::string name : {"new", "old", "empty"}) {
    ASSERT_OK(image->delete_snapshot(name));
    for (const uint64_t page : pages) {
      EXPECT_EQ(test::read_page(*image, page), page == 7 ? test::pattern_page(4) : kZeroPage)
          << page;
    }
  }
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

// While a deletion moves pages: those of the deleted layer to the active one's windows, if these
// are fewer, or the other way.
TEST_F(LayeredImageTest, DiscardBetweenTheStepsOfADeletion) {
  for (const bool to_parent : {false, true}) {
    SCOPED_TRACE(to_parent);
    make_image();
    const auto image = test::open_image(path_);
    const auto write_run = [&](uint64_t first, uint64_t end) {
      for (uint64_t page = first; page < end; ++page) {
        test::write_page(*image, page, test::pattern_page(page));
      }
      ASSERT_OK(image->commit());
    };
    if (to_parent) write_run(600, 700);
    ASSERT_OK(image->create_snapshot("top"));
    write_run(0, 1);
    write_run(601, to_parent ? 602 : 700);
    ASSERT_OK(image->begin_deletion("top"));
    std::vector<uint64_t> gone;
    DeletionReport report;
    for (const uint64_t page : {0u, 9u, 601u, 650u, 512u, 7u, 8u}) {
      if (!report.done) {
        const auto step = image->continue_deletion(1, {});
        ASSERT_OK(step);
        report = *step;
      }
      ASSERT_OK(image->discard(PageIndex(page), 1));
      gone.push_back(page);
      for (const uint64_t zero : gone) EXPECT_EQ(test::read_page(*image, zero), kZeroPage) << zero;
    }
    while (!report.done) {
      const auto step = image->continue_deletion(1000, {});
      ASSERT_OK(step);
      report = *step;
    }
    for (const uint64_t zero : gone) EXPECT_EQ(test::read_page(*image, zero), kZeroPage) << zero;
    const uint64_t of_new = 5 * kPagesPerChunk;
    EXPECT_EQ(test::read_page(*image, of_new), test::pattern_page(of_new * 16 + 2));
    EXPECT_EQ(test::read_page(*image, 660), test::pattern_page(660));
    ASSERT_OK(image->close());
    test::expect_clean_check(path_);
    std::remove(path_.c_str());
  }
}

TEST(DiscardOverBase, HidesTheBaseAndLeavesItAsItIs) {
  const test::TempDir dir;
  const std::string base = dir.file("base.raw");
  test::write_file(base, std::string(3 * kPageSize, 'b'));
  CreateOptions options;
  options.virtual_size = 64 * kMiB;
  options.log_size = 4 * kMiB;
  options.base = Base{"base.raw", BaseFormat::kRaw};
  const std::string path = dir.file("vm.pcow");
  ASSERT_OK(Image::create(path, options));
  for (const BaseAccess access : {BaseAccess::kFollow, BaseAccess::kIgnore}) {
    OpenOptions open;
    open.access = Access::kReadWrite;
    open.base = access;
    const auto image = Image::open(path, open);
    ASSERT_OK(image);
    // One of them without looking at the base, which may have any pages then.
    const uint64_t page = access == BaseAccess::kFollow ? 0 : 2;
    EXPECT_EQ((*image)->discard(PageIndex(page), 1).value(), 1u);
    ASSERT_OK((*image)->close());
    test::expect_clean_check(path);
  }
  OpenOptions open;
  open.base = BaseAccess::kFollow;
  const auto image = Image::open(path, open);
  ASSERT_OK(image);
  EXPECT_EQ(test::read_page(**image, 0), kZeroPage);
  EXPECT_EQ(test::read_page(**image, 1), test::Page(kPageSize, std::byte{'b'}));
  EXPECT_EQ(test::read_page(**image, 2), kZeroPage);
  EXPECT_EQ(test::file_bytes(base, 0, 3 * kPageSize), std::string(3 * kPageSize, 'b'));
}

}  // namespace
}  // namespace pcow
