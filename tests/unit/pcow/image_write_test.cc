// SPDX-License-Identifier: BSD-3-Clause
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pcow/format/layout.h"
#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using Kind = GibLayout::Kind;

constexpr uint64_t kSize = 4 * kGiB;

class ImageWriteTest : public ::testing::Test {
 protected:
  void SetUp() override { test::create_image(path_, kSize); }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_F(ImageWriteTest, ANewImageReadsAsZerosAndTakesAlmostNothing) {
  const auto image = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(test::read_page(*image, 0), test::Page(kPageSize));
  EXPECT_EQ(test::read_page(*image, kSize / kPageSize - 1), test::Page(kPageSize));
  EXPECT_EQ(image->info().allocated_bytes, 0u);
  EXPECT_LE(image->info().disk_bytes, 64 * kKiB);
}

TEST_F(ImageWriteTest, PagesComeBackAfterCloseAndAfterACrash) {
  for (const bool clean : {true, false}) {
    const uint64_t value = clean ? 1 : 2;
    {
      const auto image = test::open_image(path_);
      for (const uint64_t page :
           {uint64_t{0}, uint64_t{511}, uint64_t{512}, uint64_t{262144}, kSize / kPageSize - 1}) {
        test::write_page(*image, page, test::pattern_page(page + value));
      }
      ASSERT_OK(image->commit());
      if (clean) ASSERT_OK(image->close());
    }
    const auto image = test::open_image(path_);
    EXPECT_EQ(image->info().recovered, !clean);
    for (const uint64_t page :
         {uint64_t{0}, uint64_t{511}, uint64_t{512}, uint64_t{262144}, kSize / kPageSize - 1}) {
      EXPECT_EQ(test::read_page(*image, page), test::pattern_page(page + value)) << page;
    }
    EXPECT_EQ(test::read_page(*image, 1), test::Page(kPageSize));
    ASSERT_OK(image->close());
    test::expect_clean_check(path_);
  }
}

TEST_F(ImageWriteTest, ZeroPagesStayOrBecomeHoles) {
  const auto image = test::open_image(path_);
  const test::Page zero(kPageSize);
  const PageWrite write{PageIndex(5), zero.data()};
  auto report = image->write_pages(std::span(&write, 1));
  ASSERT_OK(report);
  EXPECT_EQ(report->zero_pages, 1u);
  EXPECT_EQ(report->written_pages, 0u);
  EXPECT_EQ(image->info().allocated_bytes, 0u);

  test::write_page(*image, 5, test::pattern_page(5));
  const uint64_t with_data = image->info().disk_bytes;
  report = image->write_pages(std::span(&write, 1));
  ASSERT_OK(report);
  EXPECT_EQ(test::read_page(*image, 5), zero);
  // xfs may give back more: what it had set aside for its own records.
  EXPECT_LE(image->info().disk_bytes, with_data - kPageSize);
  // And back: the hole takes data again.
  test::write_page(*image, 5, test::pattern_page(6));
  EXPECT_EQ(test::read_page(*image, 5), test::pattern_page(6));
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

TEST_F(ImageWriteTest, AlmostZeroIsNotZero) {
  const auto image = test::open_image(path_);
  for (const size_t at : {size_t{0}, size_t{7}, size_t{8}, size_t{4095}}) {
    test::Page page(kPageSize);
    page[at] = std::byte{1};
    test::write_page(*image, at, page);
    EXPECT_EQ(test::read_page(*image, at), page) << at;
  }
}

TEST_F(ImageWriteTest, EpochsCountCommitsThatWroteSomething) {
  const auto image = test::open_image(path_);
  EXPECT_EQ(image->commit().value(), Epoch(0));
  test::write_page(*image, 1, test::pattern_page(1));
  EXPECT_EQ(image->commit().value(), Epoch(1));
  EXPECT_EQ(image->commit().value(), Epoch(1));
  test::write_page(*image, 1, test::pattern_page(2));
  EXPECT_EQ(image->commit().value(), Epoch(2));
  ASSERT_OK(image->close());
  EXPECT_EQ(test::open_image(path_, Access::kReadOnly)->info().committed_epoch, Epoch(2));
}

TEST_F(ImageWriteTest, BadRequestsChangeNothing) {
  const auto image = test::open_image(path_);
  const test::Page data = test::pattern_page(1);
  const std::vector<PageWrite> descending = {{PageIndex(2), data.data()},
                                             {PageIndex(1), data.data()}};
  EXPECT_EQ(image->write_pages(descending).error().code, Code::kInvalid);
  const std::vector<PageWrite> twice = {{PageIndex(2), data.data()}, {PageIndex(2), data.data()}};
  EXPECT_EQ(image->write_pages(twice).error().code, Code::kInvalid);
  const std::vector<PageWrite> beyond = {{PageIndex(1), data.data()},
                                         {PageIndex(kSize / kPageSize), data.data()}};
  EXPECT_EQ(image->write_pages(beyond).error().code, Code::kInvalid);
  EXPECT_EQ(image->info().allocated_bytes, 0u);
  test::Page out(kPageSize);
  EXPECT_EQ(image->read(kSize - 1, out).error().code, Code::kInvalid);
  EXPECT_EQ(image->read(~uint64_t{0}, out).error().code, Code::kInvalid);
  ASSERT_OK(image->close());
  EXPECT_EQ(image->write_pages(descending).error().code, Code::kInvalid);
}

// Reads without page alignment, across owned and unowned pages.
TEST_F(ImageWriteTest, ReadsAnyRange) {
  const auto image = test::open_image(path_);
  const test::Page data = test::pattern_page(7);
  test::write_page(*image, 1, data);
  std::vector<std::byte> out(kPageSize * 2, std::byte{0xaa});
  ASSERT_OK(image->read(kPageSize + 100, out));
  EXPECT_TRUE(std::equal(data.begin() + 100, data.end(), out.begin()));
  EXPECT_TRUE(std::all_of(out.begin() + (kPageSize - 100), out.end(),
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST_F(ImageWriteTest, MapMergesRuns) {
  const auto image = test::open_image(path_);
  for (const uint64_t page : {10u, 11u, 12u, 600u})
    test::write_page(*image, page, test::pattern_page(1));
  std::vector<MapExtent> runs;
  ASSERT_OK(image->map(0, kSize, [&](const MapExtent& run) { runs.push_back(run); }));
  ASSERT_EQ(runs.size(), 5u);
  EXPECT_EQ(runs[1].start, 10 * kPageSize);
  EXPECT_EQ(runs[1].length, 3 * kPageSize);
  EXPECT_TRUE(runs[1].data);
  EXPECT_EQ(*runs[1].file_offset % kChunkSize, 10 * kPageSize);
  EXPECT_FALSE(runs[4].data);
  uint64_t end = 0;
  for (const MapExtent& run : runs) {
    EXPECT_EQ(run.start, end);
    end += run.length;
  }
  EXPECT_EQ(end, kSize);
  EXPECT_FALSE(image->map(kSize, 1, [](const MapExtent&) {}).has_value());
}

// Windows lie where their chunk lies in the GiB, whatever the order of first touch.
TEST_F(ImageWriteTest, TouchOrderDoesNotScatterWindows) {
  const auto image = test::open_image(path_);
  for (const uint64_t chunk : {400u, 3u, 77u}) {
    test::write_page(*image, chunk * kPagesPerChunk, test::pattern_page(chunk));
  }
  const GibLayout layout = image->layout(GibIndex(0)).value();
  ASSERT_EQ(layout.segment.size(), 1u);
  EXPECT_EQ(layout.segment[0].offset % kGiB, 0u);
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const bool touched = chunk == 400 || chunk == 3 || chunk == 77;
    const FilePlace window = layout.segment[0] + chunk * kWindowSize;
    EXPECT_EQ(layout.chunks[chunk],
              (touched ? GibLayout::Chunk{Kind::kWindow, window} : GibLayout::Chunk{}));
    if (!touched) continue;
    EXPECT_EQ(
        test::file_bytes(path_, window.offset, kPageSize),
        std::string(reinterpret_cast<const char*>(test::pattern_page(chunk).data()), kPageSize));
  }
  EXPECT_TRUE(image->layout(GibIndex(1)).value().segment.empty());
  EXPECT_EQ(image->layout(GibIndex(4)).error().code, Code::kInvalid);
  EXPECT_TRUE(image->page_map(ChunkIndex(77)).value()[0]);
  EXPECT_EQ(image->page_map(ChunkIndex(78)).value().count(), 0u);
}

// A log of the smallest size under more transactions than it can hold at once.
TEST_F(ImageWriteTest, TheLogWrapsAndIsCheckpointed) {
  const std::string path = dir_.file("small-log.pcow");
  test::create_image(path, 64 * kGiB, format::kMinLogSize);
  uint64_t pages = 0;
  {
    const auto image = test::open_image(path);
    for (uint64_t round = 0; round < 20; ++round) {
      std::vector<PageWrite> writes;
      const test::Page data = test::pattern_page(round);
      for (uint64_t page = round; page < 64 * kGiB / kPageSize; page += 20011) {
        writes.push_back({PageIndex(page), data.data()});
      }
      pages += writes.size();
      ASSERT_OK(image->write_pages(writes));
      ASSERT_OK(image->commit());
    }
    EXPECT_EQ(image->info().allocated_bytes, pages * kPageSize);
  }
  {
    const auto image = test::open_image(path);
    for (uint64_t round = 0; round < 20; ++round) {
      EXPECT_EQ(test::read_page(*image, round + 20011 * 700), test::pattern_page(round));
    }
    ASSERT_OK(image->close());
  }
  test::expect_clean_check(path);
}

TEST_F(ImageWriteTest, UnownedSpaceIsReclaimed) {
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 0, test::pattern_page(1));
    // What a guest that reads holes through its mapping does on tmpfs.
    const uint64_t window = image->layout(GibIndex(0)).value().segment.at(0).offset;
    test::patch_file(path_, window + 10 * kPageSize, std::string(3 * kPageSize, '\0'));
    const auto freed = image->reclaim_unowned();
    ASSERT_OK(freed);
    EXPECT_EQ(*freed, 3 * kPageSize);
    EXPECT_EQ(test::read_page(*image, 0), test::pattern_page(1));
    ASSERT_OK(image->close());
  }
  test::expect_clean_check(path_);
}

}  // namespace
}  // namespace pcow
