// SPDX-License-Identifier: BSD-3-Clause
//
// Deleting a snapshot in steps, while the image is used and its windows are mapped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kAll = UINT64_MAX;

test::Page page_of(uint64_t value) { return test::pattern_page(value); }

class DeletionTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::create_image(path_, 4 * kGiB, 4 * kMiB);
    open();
  }
  void open() {
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }
  void close() {
    ASSERT_OK(image_->close());
    image_.reset();
  }

  void write(uint64_t page, uint64_t value) { test::write_page(*image_, page, page_of(value)); }
  void write_run(uint64_t first, uint64_t count, uint64_t value) {
    test::PageBatch batch;
    for (uint64_t i = 0; i < count; ++i) batch.add(first + i, page_of(value + i));
    ASSERT_OK(image_->write_pages(batch.writes()));
  }
  void log(uint64_t page, uint64_t value) {
    test::PageBatch batch;
    batch.add(page, page_of(value));
    ASSERT_OK(image_->log_pages(batch.writes()));
  }
  test::Page read(uint64_t page) { return test::read_page(*image_, page); }

  // Runs out of steps rather than for ever.
  void finish_in_steps(uint64_t pages_max, const SegmentInUse& in_use = {}) {
    DeletionReport report;
    for (int step = 0; !report.done && !report.waits; ++step) {
      ASSERT_LT(step, 20000);
      auto result = image_->continue_deletion(pages_max, in_use);
      ASSERT_OK(result);
      report = *result;
      // What moves, and what else takes as long; no step goes beyond.
      ASSERT_LE(report.moved_pages, pages_max);
      moved_ += report.moved_pages;
    }
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  std::unique_ptr<Image> image_;
  uint64_t moved_ = 0;
};

TEST_F(DeletionTest, TheNameIsGoneAtOnceAndTheRestInSteps) {
  write_run(0, 100, 1000);
  ASSERT_OK(image_->create_snapshot("one"));
  write_run(90, 60, 2000);
  ASSERT_OK(image_->commit());
  EXPECT_FALSE(image_->info().deleting);
  ASSERT_OK(image_->begin_deletion("one"));
  EXPECT_TRUE(image_->info().deleting);
  EXPECT_TRUE(image_->snapshots().value().empty());
  EXPECT_EQ(image_->begin_deletion("one").error().code, Code::kNotFound);
  finish_in_steps(7);
  EXPECT_EQ(moved_, 60u);  // those of the active layer: they are fewer
  EXPECT_FALSE(image_->info().deleting);
  EXPECT_EQ(image_->info().allocated_bytes, 150 * kPageSize);
  for (uint64_t page = 0; page < 150; ++page) {
    ASSERT_EQ(read(page), page_of(page < 90 ? 1000 + page : 2000 + page - 90)) << page;
  }
  close();
  test::expect_clean_check(path_);
}

TEST_F(DeletionTest, OneAfterTheOther) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  write(2, 12);
  ASSERT_OK(image_->create_snapshot("two"));
  write(3, 13);
  ASSERT_OK(image_->begin_deletion("one"));
  const auto second = image_->begin_deletion("two");
  EXPECT_EQ(second.error().code, Code::kBusy);
  EXPECT_THAT(second.error().message, HasSubstr("being deleted"));
  ASSERT_OK(image_->create_snapshot("one"));  // the name can be had again
  finish_in_steps(1);
  ASSERT_OK(image_->begin_deletion("two"));
  ASSERT_OK(image_->delete_snapshot("one"));  // which goes on with the other
  EXPECT_FALSE(image_->info().deleting);
  EXPECT_EQ(read(1), page_of(11));
  EXPECT_EQ(read(2), page_of(12));
  close();
  test::expect_clean_check(path_);
}

TEST_F(DeletionTest, AnEpochUnderWayExcludesIt) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  log(1, 21);
  EXPECT_EQ(image_->begin_deletion("one").error().code, Code::kInvalid);
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->begin_deletion("one"));
  log(1, 31);
  EXPECT_EQ(image_->continue_deletion(kAll, {}).error().code, Code::kInvalid);
  ASSERT_OK(image_->commit());
  finish_in_steps(1);
  EXPECT_EQ(read(1), page_of(31));
}

TEST_F(DeletionTest, NothingToDoChangesNothing) {
  write(1, 11);
  close();
  const std::string before = test::file_bytes(path_, 0, 4 * kMiB);
  open();
  const auto report = image_->continue_deletion(kAll, {});
  ASSERT_OK(report);
  EXPECT_TRUE(report->done);
  close();
  EXPECT_EQ(test::file_bytes(path_, 0, 4 * kMiB), before);
}

// Pages are copied to the older windows while the guest goes on storing to the newer ones.
TEST_F(DeletionTest, WhatChangesMeanwhileIsCopiedAgain) {
  write_run(0, 400, 1000);
  ASSERT_OK(image_->create_snapshot("one"));
  write_run(0, 50, 2000);
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->begin_deletion("one"));
  std::vector<uint64_t> value(400);
  for (uint64_t page = 0; page < 400; ++page) value[page] = (page < 50 ? 2000 : 1000) + page;
  for (uint64_t step = 0; image_->info().deleting; ++step) {
    ASSERT_LT(step, 1000u);
    ASSERT_OK(image_->continue_deletion(8, {}));
    const uint64_t page = step * 7 % 60;
    value[page] = 5000 + step;
    if (step % 2 == 0) {
      write(page, value[page]);
    } else {
      log(page, value[page]);
    }
    ASSERT_OK(image_->commit());
    ASSERT_OK(image_->checkpoint(kAll));
  }
  for (uint64_t page = 0; page < 400; ++page) ASSERT_EQ(read(page), page_of(value[page])) << page;
  close();
  test::expect_clean_check(path_);
}

// Copying does not catch up with who stores faster: then the other way is taken.
TEST_F(DeletionTest, ItEndsHoweverFastPagesChange) {
  write_run(0, 400, 1000);
  ASSERT_OK(image_->create_snapshot("one"));
  write_run(0, 50, 2000);
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->begin_deletion("one"));
  for (uint64_t step = 0; image_->info().deleting; ++step) {
    ASSERT_LT(step, 1000u);
    ASSERT_OK(image_->continue_deletion(40, {}));
    write_run(0, 50, 3000 + step);
  }
  EXPECT_EQ(read(399), page_of(1399));
  close();
  test::expect_clean_check(path_);
}

TEST_F(DeletionTest, GoesOnWhenTheImageIsOpenedAgain) {
  for (const bool clean : {true, false}) {
    SCOPED_TRACE(clean ? "closed" : "not closed");
    write_run(0, 100, 1000);
    ASSERT_OK(image_->create_snapshot("one"));
    write_run(0, 10, 2000);
    ASSERT_OK(image_->commit());
    ASSERT_OK(image_->begin_deletion("one"));
    ASSERT_OK(image_->continue_deletion(3, {}));
    ASSERT_TRUE(image_->info().deleting);
    if (clean) ASSERT_OK(image_->close());
    image_.reset();
    test::expect_clean_check(path_, true);
    open();
    EXPECT_FALSE(image_->info().deleting);
    EXPECT_EQ(read(5), page_of(2005));
    EXPECT_EQ(read(50), page_of(1050));
  }
  close();
  test::expect_clean_check(path_);
}

// What a reader maps, of the layout at any time, stays right while others move pages.
class MappedDeletionTest : public DeletionTest {
 protected:
  void TearDown() override {
    for (std::byte* at : mapped_) munmap(at, kChunkSize);
  }
  const std::byte* map(ChunkIndex chunk) {
    const GibLayout layout = image_->layout(gib_of(chunk)).value();
    const GibLayout::Chunk& there = layout.chunks.at(chunk_in_segment(chunk));
    EXPECT_EQ(there.kind, GibLayout::Kind::kWindow);
    void* at = mmap(nullptr, kChunkSize, PROT_READ, MAP_PRIVATE, image_->file(0).fd,
                    static_cast<off_t>(there.window.offset));
    EXPECT_NE(at, MAP_FAILED);
    used_.insert(there.window.offset);
    mapped_.push_back(static_cast<std::byte*>(at));
    return mapped_.back();
  }
  bool in_use(const std::vector<FilePlace>& segment) const {
    return std::ranges::any_of(used_, [&](uint64_t window) {
      return window >= segment[0].offset && window < segment[0].offset + kSegmentSize;
    });
  }
  static testing::AssertionResult shows(const std::byte* chunk, uint64_t page, uint64_t value) {
    const test::Page expected = value == 0 ? test::Page(kPageSize) : page_of(value);
    if (std::memcmp(chunk + page * kPageSize, expected.data(), kPageSize) == 0) {
      return testing::AssertionSuccess();
    }
    return testing::AssertionFailure() << "page " << page << " changed under the mapping";
  }

  std::vector<std::byte*> mapped_;
  std::set<uint64_t> used_;
};

// A chunk lies in the snapshot's window, another one in the newer layer's. One of the two segments
// is given up.
class GivenUpTest : public MappedDeletionTest {
 protected:
  void expect_kept_while_mapped(uint64_t older_pages, uint64_t newer_pages) {
    write_run(0, older_pages, 1000);
    ASSERT_OK(image_->create_snapshot("one"));
    write_run(kPagesPerChunk, newer_pages, 2000);
    ASSERT_OK(image_->commit());
    const std::byte* older = map(ChunkIndex(0));
    const std::byte* newer = map(ChunkIndex(1));
    ASSERT_OK(image_->begin_deletion("one"));
    const auto used = [&](const std::vector<FilePlace>& segment) { return in_use(segment); };
    finish_in_steps(5, used);
    EXPECT_EQ(moved_, std::min(older_pages, newer_pages));
    EXPECT_TRUE(image_->info().deleting);  // it waits
    const auto waits = image_->continue_deletion(kAll, used);
    ASSERT_OK(waits);
    EXPECT_TRUE(waits->waits);
    // Others take space meanwhile, and store to what is mapped.
    write(kPagesPerSegment, 77);
    write(2 * kPagesPerSegment, 78);
    log(3 * kPagesPerSegment, 79);
    ASSERT_OK(image_->commit());
    ASSERT_OK(image_->checkpoint(kAll));
    EXPECT_TRUE(shows(older, 0, 1000));
    EXPECT_TRUE(shows(older, older_pages - 1, 1000 + older_pages - 1));
    EXPECT_TRUE(shows(older, older_pages, 0));
    EXPECT_TRUE(shows(newer, 0, 2000));
    EXPECT_TRUE(shows(newer, newer_pages - 1, 2000 + newer_pages - 1));
    EXPECT_TRUE(shows(newer, newer_pages, 0));
    used_.clear();
    finish_in_steps(5, used);
    EXPECT_FALSE(image_->info().deleting);
    EXPECT_EQ(read(0), page_of(1000));
    EXPECT_EQ(read(kPagesPerChunk), page_of(2000));
    // One of the two is empty now: it would not do for who still maps it.
    EXPECT_NE(static_cast<bool>(shows(older, 0, 1000)), static_cast<bool>(shows(newer, 0, 2000)));
    close();
    test::expect_clean_check(path_, true);
  }
};

TEST_F(GivenUpTest, OfTheNewerLayer) { expect_kept_while_mapped(100, 5); }
TEST_F(GivenUpTest, OfTheSnapshot) { expect_kept_while_mapped(5, 100); }

}  // namespace
}  // namespace pcow
