// SPDX-License-Identifier: BSD-3-Clause
//
// Random operations on an image against an oracle that is a map of page contents.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

class ImageModel {
 public:
  ImageModel(const std::string& path, unsigned long seed) : path_(path), random_(seed) {
    test::create_image(path_, size_, 4 * kMiB);
    image_ = test::open_image(path_);
  }

  void step() {
    switch (pick(20)) {
      case 0:
        return reopen(true);
      case 1:
        return reopen(false);
      case 2:
        return resize();
      case 3:
      case 4:
        ASSERT_OK(image_->commit());
        return;
      case 5:
        ASSERT_OK(image_->reclaim_unowned());
        return;
      case 6:
      case 7:
      case 8:
        return compare_some();
      default:
        return write();
    }
  }

  void compare_all() {
    std::map<uint64_t, bool> data;
    ASSERT_OK(image_->map(0, size_, [&](const MapExtent& run) {
      for (uint64_t at = run.start; at < run.start + run.length && run.data; at += kPageSize) {
        data[at / kPageSize] = true;
      }
    }));
    for (const auto& [page, value] : oracle_) {
      ASSERT_EQ(test::read_page(*image_, page), content(value)) << page;
      ASSERT_TRUE(value == 0 || data.contains(page)) << page;
    }
    for (const auto& [page, unused] : data) {
      ASSERT_TRUE(oracle_.contains(page)) << "page " << page << " was never written";
    }
  }

  void finish() {
    compare_all();
    ASSERT_OK(image_->close());
    image_.reset();
    test::expect_clean_check(path_);
  }

 private:
  uint64_t pick(uint64_t bound) { return random_() % bound; }
  static test::Page content(uint64_t value) {
    return value == 0 ? test::Page(kPageSize) : test::pattern_page(value);
  }

  // Clustered, so that pages are met again.
  uint64_t pick_page() {
    const uint64_t pages = size_ / kPageSize;
    const uint64_t anchor = pick(16) * (pages / 16);
    return std::min(anchor + pick(pick(4) == 0 ? pages / 16 : 64), pages - 1);
  }

  void write() {
    std::map<uint64_t, uint64_t> batch;
    const uint64_t count = 1 + pick(200);
    const bool run = pick(2) == 0;
    const uint64_t start = pick_page();
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t page = run ? std::min(start + i, size_ / kPageSize - 1) : pick_page();
      batch[page] = pick(5) == 0 ? 0 : 1 + pick(1000000);
    }
    std::vector<test::Page> pages;
    std::vector<PageWrite> writes;
    pages.reserve(batch.size());
    for (const auto& [page, value] : batch) {
      pages.push_back(content(value));
      writes.push_back({PageIndex(page), pages.back().data()});
    }
    const auto report = image_->write_pages(writes);
    ASSERT_OK(report);
    ASSERT_EQ(report->written_pages + report->zero_pages, writes.size());
    for (const auto& [page, value] : batch) {
      if (value != 0 || oracle_.contains(page)) oracle_[page] = value;
    }
  }

  void compare_some() {
    for (int i = 0; i < 20; ++i) {
      const uint64_t page = pick_page();
      const auto it = oracle_.find(page);
      ASSERT_EQ(test::read_page(*image_, page), content(it == oracle_.end() ? 0 : it->second));
    }
  }

  void reopen(bool clean) {
    if (clean) {
      ASSERT_OK(image_->commit());
      ASSERT_OK(image_->close());
    }
    image_.reset();
    test::expect_clean_check(path_, true);
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
    ASSERT_EQ(image_->virtual_size(), size_);
    compare_some();
  }

  void resize() {
    const uint64_t size = (1 + pick(20 * kGiB / kChunkSize)) * kChunkSize;
    ASSERT_OK(image_->resize(size, true));
    size_ = size;
    oracle_.erase(oracle_.lower_bound(size_ / kPageSize), oracle_.end());
  }

  std::string path_;
  std::mt19937_64 random_;
  uint64_t size_ = 8 * kGiB;
  std::map<uint64_t, uint64_t> oracle_;  // page → value; absent: never written
  std::unique_ptr<Image> image_;
};

TEST(ImageModel, RandomOperationsMatchTheOracle) {
  const test::TempDir dir;
  ImageModel model(dir.file("model.pcow"), test::test_seed());
  for (int step = 0; step < 1500 && !::testing::Test::HasFatalFailure(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    model.step();
  }
  if (!::testing::Test::HasFatalFailure()) model.finish();
}

}  // namespace
}  // namespace pcow
