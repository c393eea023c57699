// SPDX-License-Identifier: BSD-3-Clause
//
// An image with a small log, for tests of epochs.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/image_fixture.h"

namespace pcow {

inline constexpr uint64_t kAll = UINT64_MAX;
inline constexpr uint64_t kLogSize = 4 * kMiB;

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

}  // namespace pcow
