// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

class ResizeTest : public ::testing::Test {
 protected:
  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_F(ResizeTest, GrowsAndKeepsContent) {
  test::create_image(path_, 64 * kMiB);
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 100, test::pattern_page(100));
    ASSERT_OK(image->resize(2 * kTiB, false));
    EXPECT_EQ(image->virtual_size(), 2 * kTiB);
    test::write_page(*image, 2 * kTiB / kPageSize - 1, test::pattern_page(3));
    ASSERT_OK(image->close());
  }
  const auto image = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(image->virtual_size(), 2 * kTiB);
  EXPECT_EQ(test::read_page(*image, 100), test::pattern_page(100));
  EXPECT_EQ(test::read_page(*image, 2 * kTiB / kPageSize - 1), test::pattern_page(3));
  test::expect_clean_check(path_);
}

// What was dropped must never come back: not after growing again, not after a crash.
TEST_F(ResizeTest, ShrinkingDropsForGood) {
  for (const bool crash : {false, true}) {
    test::create_image(path_, 600 * kGiB);
    {
      const auto image = test::open_image(path_);
      for (const uint64_t gib : {0u, 3u, 40u, 599u}) {
        test::write_page(*image, gib * kPagesPerSegment + 7, test::pattern_page(gib));
      }
      EXPECT_EQ(image->resize(2 * kGiB, false).error().code, Code::kInvalid);
      const uint64_t before = image->info().disk_bytes;
      ASSERT_OK(image->resize(2 * kGiB, true));
      EXPECT_EQ(image->info().allocated_bytes, kPageSize);
      EXPECT_LE(image->info().disk_bytes + 3 * kPageSize, before + 256 * kKiB);
      if (!crash) ASSERT_OK(image->close());
    }
    {
      const auto image = test::open_image(path_);
      ASSERT_OK(image->resize(600 * kGiB, false));
      for (const uint64_t gib : {3u, 40u, 599u}) {
        EXPECT_EQ(test::read_page(*image, gib * kPagesPerSegment + 7), test::Page(kPageSize));
        test::write_page(*image, gib * kPagesPerSegment + 8, test::pattern_page(gib));
        EXPECT_EQ(test::read_page(*image, gib * kPagesPerSegment + 7), test::Page(kPageSize));
      }
      EXPECT_EQ(test::read_page(*image, 7), test::pattern_page(0));
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_);
    std::remove(path_.c_str());
  }
}

TEST_F(ResizeTest, ShrinksInsideAGib) {
  test::create_image(path_, 64 * kMiB);
  const auto image = test::open_image(path_);
  test::write_page(*image, 511, test::pattern_page(1));
  test::write_page(*image, 512, test::pattern_page(2));
  ASSERT_OK(image->resize(2 * kMiB, true));
  EXPECT_EQ(test::read_page(*image, 511), test::pattern_page(1));
  ASSERT_OK(image->resize(4 * kMiB, false));
  EXPECT_EQ(test::read_page(*image, 512), test::Page(kPageSize));
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

// What says that chunks were dropped must not empty chunks that were not.
TEST_F(ResizeTest, ATrimOfOwnedChunksIsDamage) {
  for (const bool snapshot : {false, true}) {
    SCOPED_TRACE(snapshot);
    test::create_image(path_, 64 * kMiB, 4 * kMiB);
    {
      const auto image = test::open_image(path_);
      test::write_page(*image, 0, test::pattern_page(1));
      if (snapshot) ASSERT_OK(image->create_snapshot("one"));
      if (snapshot) test::write_page(*image, 0, test::pattern_page(1));
      ASSERT_OK(image->close());
    }
    test::forge_block(path_, format::kRootOffset, [](format::Block& block) {
      block.as<format::RootBlock>().trim_first_chunk = 0;
      block.as<format::RootBlock>().trim_chunk_count = 4;
    });
    const std::string before = test::file_bytes(path_, 0, 4 * kMiB);
    OpenOptions options;
    options.access = Access::kReadWrite;
    const auto opened = Image::open(path_, options);
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(code_name(opened.error().code), code_name(Code::kCorrupt));
    EXPECT_EQ(test::file_bytes(path_, 0, 4 * kMiB), before);
    EXPECT_EQ(test::read_page(*test::open_image(path_, Access::kReadOnly), 0),
              test::pattern_page(1));
    std::remove(path_.c_str());
  }
}

TEST_F(ResizeTest, ATrimOfASegmentOfAnotherTableIsDamage) {
  test::create_image(path_, 64 * kMiB, 4 * kMiB);
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 0, test::pattern_page(1));
    ASSERT_OK(image->close());
  }
  const uint64_t table =
      test::read_block(path_, format::kRootOffset).as<format::RootBlock>().segment_table[0];
  test::forge_block(path_, table, [](format::Block& block) {
    block.as<format::SegmentTableBlock>().entries[1].owner = 5 * format::kSlotSize;
  });
  test::forge_block(path_, format::kRootOffset, [](format::Block& block) {
    block.as<format::RootBlock>().trim_first_chunk = 2;
    block.as<format::RootBlock>().trim_chunk_count = 4;
  });
  OpenOptions options;
  options.access = Access::kReadWrite;
  EXPECT_EQ(Image::open(path_, options).error().code, Code::kCorrupt);
}

TEST_F(ResizeTest, RefusesImpossibleSizes) {
  test::create_image(path_, 64 * kMiB);
  const auto image = test::open_image(path_);
  for (const uint64_t size : {uint64_t{0}, 2 * kMiB + 4096, 64 * kTiB}) {
    EXPECT_EQ(image->resize(size, true).error().code, Code::kInvalid) << size;
  }
  EXPECT_EQ(image->virtual_size(), 64 * kMiB);
}

}  // namespace
}  // namespace pcow
