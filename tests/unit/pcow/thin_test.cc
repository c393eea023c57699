// SPDX-License-Identifier: BSD-3-Clause
//
// Thin provisioning: what an image takes of the file system, through its life, against the pages
// that it has to keep. A page has to be kept as long as the image or a snapshot shows it, once for
// each content; zeros take nothing. The bar is 1 % on top, for all metadata and for what the file
// system itself needs to find scattered pages. On ext4 st_blocks counts that, and it is most of
// what is measured: the image's own structures are near 0.1 %, the blocks of ext4's extent tree 0.4
// to 0.8 % here, where half of the pages are alone. Were all of them alone, and their neighbours
// punched out later, it would be 0.8 to 1.0 %: ext4 does not merge tree blocks that became sparse.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/image_fixture.h"
#include "tests/support/test_seed.h"

namespace pcow {
namespace {

constexpr uint64_t kSize = 2 * kGiB;
constexpr uint64_t kLogSize = 32 * kMiB;
// FORMAT.md, section 2: two superblocks, root block, slot map, and one block each of segment table,
// layer directory and layer table; a block with the file system's extents of these.
constexpr uint64_t kEmptyBytes = 8 * kPageSize;

class ThinTest : public ::testing::Test {
 protected:
  using Versions = std::vector<uint32_t>;  // by page; 0: zeros

  ThinTest() : random_(test::test_seed()) {
    test::create_image(path_, kSize, kLogSize);
    image_ = test::open_image(path_);
  }

  // Each of these writes one new version of content to `count` pages.
  std::vector<PageWrite> scattered(uint64_t count, const test::Page& content) {
    std::set<uint64_t> pages;
    while (pages.size() < count) pages.insert(random_() % now_.size());
    return writes_of(pages, content);
  }
  // Every other page: the worst for a file system that keeps runs.
  std::vector<PageWrite> alternating(uint64_t first, uint64_t count, const test::Page& content) {
    std::set<uint64_t> pages;
    for (uint64_t i = 0; i < count; ++i) pages.insert(first + 2 * i);
    return writes_of(pages, content);
  }
  std::vector<PageWrite> run(uint64_t first, uint64_t count, const test::Page& content) {
    std::set<uint64_t> pages;
    for (uint64_t i = 0; i < count; ++i) pages.insert(first + i);
    return writes_of(pages, content);
  }

  void store(const std::vector<PageWrite>& writes) {
    ASSERT_OK(image_->write_pages(writes));
    ASSERT_OK(image_->commit());
    note(writes);
  }
  void store_as_epochs(const std::vector<PageWrite>& writes) {
    constexpr size_t kEpochPages = 4000;
    for (size_t first = 0; first < writes.size(); first += kEpochPages) {
      const size_t count = std::min(kEpochPages, writes.size() - first);
      ASSERT_OK(image_->log_pages(std::span(writes).subspan(first, count)));
      ASSERT_OK(image_->commit());
      ASSERT_OK(image_->checkpoint(500));
    }
    note(writes);
  }
  void snapshot(const std::string& name) {
    ASSERT_OK(image_->create_snapshot(name));
    kept_[name] = now_;
  }
  void delete_snapshot(const std::string& name) {
    ASSERT_OK(image_->delete_snapshot(name));
    kept_.erase(name);
  }
  void discard(uint64_t first, uint64_t count) {
    ASSERT_OK(image_->discard(PageIndex(first), count));
    std::fill_n(now_.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
  }
  void resize(uint64_t size) {
    ASSERT_OK(image_->resize(size, true));
    now_.resize(size / kPageSize);
  }

  uint64_t pages_to_keep() const {
    uint64_t pages = 0;
    for (uint64_t page = 0; page < kSize / kPageSize; ++page) {
      std::set<uint32_t> contents;
      if (page < now_.size()) contents.insert(now_[page]);
      for (const auto& [name, versions] : kept_) {
        if (page < versions.size()) contents.insert(versions[page]);
      }
      contents.erase(0);
      pages += contents.size();
    }
    return pages;
  }

  // At a point where nothing is under way: while it is open the log has space of its own as well.
  void expect_thin(const char* when) {
    const uint64_t bar = pages_to_keep() * kPageSize * 101 / 100;
    EXPECT_LE(image_->info().disk_bytes, bar + kLogSize) << when << ", open";
    ASSERT_OK(image_->close());
    const uint64_t taken = image_->info().disk_bytes;
    EXPECT_LE(taken, bar) << when;
    std::printf(
        "%-28s %7lu KiB for %7lu KiB of pages: %+.2f %%\n", when,
        static_cast<unsigned long>(taken / kKiB),
        static_cast<unsigned long>(pages_to_keep() * kPageSize / kKiB),
        100.0 * static_cast<double>(taken) / static_cast<double>(pages_to_keep() * kPageSize) -
            100.0);
    image_.reset();
    test::expect_clean_check(path_);
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("thin.pcow");
  const test::Page zeros_ = test::Page(kPageSize);
  std::unique_ptr<Image> image_;

 private:
  std::vector<PageWrite> writes_of(const std::set<uint64_t>& pages, const test::Page& content) {
    std::vector<PageWrite> writes;
    writes.reserve(pages.size());
    for (const uint64_t page : pages) writes.push_back({PageIndex(page), content.data()});
    return writes;
  }
  void note(const std::vector<PageWrite>& writes) {
    ++version_;
    for (const PageWrite& write : writes) {
      now_[write.page.value] = write.data == zeros_.data() ? 0 : version_;
    }
  }

  std::mt19937_64 random_;
  uint32_t version_ = 0;
  Versions now_ = Versions(kSize / kPageSize);
  std::map<std::string, Versions> kept_;
};

TEST_F(ThinTest, AnEmptyImageTakesItsStructuresOnly) {
  ASSERT_OK(image_->close());
  EXPECT_LE(image_->info().disk_bytes, kEmptyBytes);
}

TEST_F(ThinTest, AnImageTakesItsPagesAndOnePercentThroughItsLife) {
  std::vector<test::Page> contents;
  for (uint64_t i = 0; i < 8; ++i) contents.push_back(test::pattern_page(i));
  store(scattered(12000, contents[0]));
  store(alternating(100000, 6000, contents[1]));
  store(run(300000, 12000, contents[2]));
  expect_thin("written in place");
  store_as_epochs(scattered(8000, contents[3]));
  expect_thin("written by way of the log");
  snapshot("a");
  store(scattered(6000, contents[4]));
  snapshot("b");
  store_as_epochs(alternating(290001, 6000, contents[5]));
  expect_thin("with two snapshots");
  store(scattered(20000, zeros_));
  store_as_epochs(scattered(8000, zeros_));
  expect_thin("after zeros were written");
  discard(0, 150000);
  expect_thin("after a discard over snapshots");
  delete_snapshot("a");
  expect_thin("the first snapshot deleted");
  store(scattered(6000, contents[6]));
  snapshot("c");
  delete_snapshot("b");
  expect_thin("another one deleted");
  store(scattered(6000, contents[7]));
  delete_snapshot("c");
  expect_thin("the last one deleted");
  store(run(280000, 20000, zeros_));
  expect_thin("a large run of zeros");
  discard(99000, 10000);
  for (uint64_t page = 300001; page < 312000; page += 407) discard(page, 1 + page % 30);
  expect_thin("a large discard, and small ones");
  resize(kGiB + 256 * kMiB);
  expect_thin("shrunk");
  resize(kSize);
  expect_thin("grown again");
}

// Where reading a hole through a mapping allocates it (tmpfs).
TEST_F(ThinTest, WhatReadingTookIsGivenBack) {
  const test::Page content = test::pattern_page(1);
  store(alternating(0, 15000, content));
  const GibLayout layout = image_->layout(GibIndex(0)).value();
  ASSERT_EQ(layout.segment.size(), 1U);
  const auto offset = static_cast<off_t>(layout.segment.front().offset);
  constexpr uint64_t kLength = 100 * kMiB;
  void* const mapped =
      mmap(nullptr, kLength, PROT_READ, MAP_PRIVATE | MAP_NORESERVE, image_->fd(), offset);
  ASSERT_NE(mapped, MAP_FAILED);
  uint64_t sum = 0;
  for (uint64_t at = 0; at < kLength; at += kPageSize) {
    sum += static_cast<const volatile uint8_t*>(mapped)[at];
  }
  munmap(mapped, kLength);
  EXPECT_GT(sum, 0u);
  const uint64_t before = image_->info().disk_bytes;
  const Result<uint64_t> freed = image_->reclaim_unowned();
  ASSERT_OK(freed);
  // The kernel drops clean pages of tmpfs that nobody maps by itself too, whenever it cares to.
  EXPECT_LE(*freed, before - image_->info().disk_bytes);
  expect_thin("after reading");
}

}  // namespace
}  // namespace pcow
