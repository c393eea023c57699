// SPDX-License-Identifier: BSD-3-Clause
//
// A full file system, for real: a small tmpfs of the test's own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <filesystem>

#include "tests/support/image_fixture.h"
#include "tests/support/small_tmpfs.h"

namespace pcow {
namespace {

using ::testing::HasSubstr;

TEST(NoSpace, CreateFailsAndLeavesNothing) {
  const test::SmallTmpfs fs(kMiB);
  fs.fill("ballast");
  CreateOptions options;
  options.virtual_size = kGiB;
  const auto result = Image::create(fs.file("a.pcow"), options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kNoSpace);
  EXPECT_THAT(result.error().message, HasSubstr("free space"));
  EXPECT_FALSE(std::filesystem::exists(fs.file("a.pcow")));
}

TEST(NoSpace, WritesFailWithoutLossAndGoOnAfterwards) {
  const test::SmallTmpfs fs(8 * kMiB);
  const std::string path = fs.file("a.pcow");
  test::create_image(path, kGiB);
  auto image = test::open_image(path);
  std::vector<uint64_t> kept;
  uint64_t page = 0;
  for (;; page += 3) {
    const test::Page data = test::pattern_page(page);
    const PageWrite write{PageIndex(page), data.data()};
    const auto result = image->write_pages(std::span(&write, 1));
    if (!result) {
      EXPECT_EQ(result.error().code, Code::kNoSpace) << result.error().message;
      EXPECT_THAT(result.error().message, HasSubstr(path));
      break;
    }
    kept.push_back(page);
    if (kept.size() % 100 == 0) {
      if (!image->commit()) break;
    }
  }
  EXPECT_GT(kept.size(), 500u);
  for (const uint64_t index : kept) {
    EXPECT_EQ(test::read_page(*image, index), test::pattern_page(index));
  }
  // As after a crash, still full: it opens for reading what is there.
  image.reset();
  {
    OpenOptions options;
    options.replay_in_memory = true;
    const auto reader = Image::open(path, options);
    ASSERT_OK(reader);
    for (const uint64_t index : kept) {
      EXPECT_EQ(test::read_page(**reader, index), test::pattern_page(index));
    }
  }
  // With space again, everything goes on.
  fs.resize(32 * kMiB);
  image = test::open_image(path);
  test::write_page(*image, page, test::pattern_page(page));
  kept.push_back(page);
  ASSERT_OK(image->commit());
  for (const uint64_t index : kept) {
    EXPECT_EQ(test::read_page(*image, index), test::pattern_page(index));
  }
  ASSERT_OK(image->close());
  test::expect_clean_check(path, true);
}

}  // namespace
}  // namespace pcow
