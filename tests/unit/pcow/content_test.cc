// SPDX-License-Identifier: BSD-3-Clause
//
// What the checker's own reader finds, against what was written and against the engine.
#include <pcow/content.h>

#include <map>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using Content = std::map<uint64_t, test::Page>;

class ContentTest : public ::testing::Test {
 protected:
  ContentTest() { test::create_image(path_, 3 * kGiB, 4 * kMiB); }

  void log(Image& image, std::initializer_list<uint64_t> pages, uint64_t value) {
    test::PageBatch batch;
    for (const uint64_t page : pages) batch.add(page, test::pattern_page(value + page));
    ASSERT_OK(image.log_pages(batch.writes()));
  }
  Content visited() {
    Content content;
    const auto report = visit_pages(path_, [&](PageIndex page, std::span<const std::byte> bytes) {
      EXPECT_TRUE(content.emplace(page.value, test::Page(bytes.begin(), bytes.end())).second);
    });
    EXPECT_TRUE(report) << report.error().message;
    if (report) {
      EXPECT_EQ(report->corruptions, 0U);
      epoch_ = report->committed_epoch;
    }
    return content;
  }

  const test::TempDir directory_;
  const std::string path_ = directory_.file("vm.pcow");
  Epoch epoch_;
};

TEST_F(ContentTest, OwnedPagesAreVisitedWhereverTheyAre) {
  const uint64_t far = 2 * kPagesPerSegment + 700;
  Content expected;
  {
    const auto image = test::open_image(path_);
    for (const uint64_t page : {uint64_t{0}, uint64_t{5}, kPagesPerChunk, far}) {
      expected[page] = test::pattern_page(page + 1);
      test::write_page(*image, page, expected[page]);
    }
    ASSERT_OK(image->commit());
    ASSERT_OK(image->close());
  }
  EXPECT_EQ(visited(), expected);
  EXPECT_EQ(epoch_, test::open_image(path_, Access::kReadOnly)->info().committed_epoch);
}

// After a crash: what is committed in the log counts, what an epoch had logged that was not does
// not.
TEST_F(ContentTest, TheLogCountsAsFarAsItIsCommitted) {
  {
    const auto image = test::open_image(path_);
    log(*image, {1, 2, 3}, 100);
    ASSERT_OK(image->commit());
    log(*image, {2, 3}, 200);
    ASSERT_OK(image->commit());
    log(*image, {3, 4}, 300);  // the crash comes before its commit
  }
  const Content expected = {
      {1, test::pattern_page(101)}, {2, test::pattern_page(202)}, {3, test::pattern_page(203)}};
  EXPECT_EQ(visited(), expected);
  OpenOptions how;
  how.replay_in_memory = true;
  const auto image = Image::open(path_, how);
  ASSERT_OK(image);
  EXPECT_EQ(epoch_, (*image)->info().committed_epoch);
  for (const auto& [page, content] : expected) EXPECT_EQ(test::read_page(**image, page), content);
}

TEST_F(ContentTest, AnImageInUseIsRefused) {
  const auto image = test::open_image(path_);
  const auto report = visit_pages(path_, [](PageIndex, std::span<const std::byte>) {});
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, Code::kBusy);
}

}  // namespace
}  // namespace pcow
