// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/content.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "pcow/base/zero.h"
#include "tests/support/image_fixture.h"
#include "tools/common/failure.h"
#include "tools/common/progress.h"
#include "tools/pcow-img/copy.h"

namespace pcow_img {
namespace {

using pcow::is_zero;
using pcow::kMiB;
using pcow::kPageSize;

// Runs as given, each byte of data 'x'.
class FakeContent : public Content {
 public:
  FakeContent(uint64_t size, std::vector<Extent> runs) : Content(size), runs_(std::move(runs)) {}

 protected:
  Extent extent_impl(uint64_t at) const override {
    for (const Extent& run : runs_) {
      if (at < run.start) return {at, run.start - at, false};
      if (at < run.start + run.length) return {at, run.start + run.length - at, true};
    }
    return {at, size() - at, false};
  }
  void read_impl(uint64_t offset, std::span<std::byte> out) const override {
    for (std::byte& byte : out) {
      const Extent run = extent_impl(offset++);
      byte = run.data ? std::byte{'x'} : std::byte{0};
    }
  }

 private:
  std::vector<Extent> runs_;
};

class RecordingWriter : public Writer {
 public:
  void data(uint64_t offset, std::span<const std::byte> pages) override {
    runs.push_back({offset, pages.size(), true});
    bytes.insert(bytes.end(), pages.begin(), pages.end());
  }
  void hole(uint64_t offset, uint64_t length) override {
    runs.push_back({offset, length, false});
    bytes.resize(bytes.size() + length);
  }
  void finish() override { finished = true; }

  std::vector<Extent> runs;
  std::vector<std::byte> bytes;
  bool finished = false;
};

class RecordedCopy : public testing::TestWithParam<std::vector<Extent>> {};

TEST_P(RecordedCopy, CoversEveryPageOnceUpToTheSizeAndKeepsEveryByte) {
  const uint64_t size = 5 * kPageSize + 7;
  const FakeContent content(size, GetParam());
  RecordingWriter writer;
  tools::Progress progress(false);
  copy_content(content, writer, progress, nullptr);
  EXPECT_TRUE(writer.finished);
  uint64_t at = 0;
  for (const Extent& run : writer.runs) {
    EXPECT_EQ(run.start, at);
    EXPECT_GT(run.length, 0U);
    at += run.length;
    EXPECT_TRUE(at % kPageSize == 0 || at == size) << at;
  }
  EXPECT_EQ(at, size);
  std::vector<std::byte> wanted(size);
  content.read(0, wanted);
  EXPECT_TRUE(writer.bytes == wanted);
}

INSTANTIATE_TEST_SUITE_P(
    Runs, RecordedCopy,
    testing::Values(std::vector<Extent>{}, std::vector<Extent>{{0, 1, true}},
                    std::vector<Extent>{{kPageSize - 1, 2, true}},
                    std::vector<Extent>{{10, 5, true}, {20, 5, true}, {3 * kPageSize, 9, true}},
                    std::vector<Extent>{{5 * kPageSize, 7, true}},
                    std::vector<Extent>{{5 * kPageSize + 6, 1, true}},
                    std::vector<Extent>{{0, 5 * kPageSize + 7, true}}));

TEST(RawContent, AFileThatGetsShorterIsAnError) {
  const test::TempDir dir;
  const std::string file = dir.file("a.raw");
  test::write_file(file, std::string(3 * kPageSize, 'x'));
  const auto content = open_raw_content(file);
  ASSERT_EQ(truncate(file.c_str(), kPageSize + 1), 0);
  std::vector<std::byte> page(kPageSize);
  EXPECT_NO_THROW(content->read(0, page));
  try {
    content->read(kPageSize, page);
    FAIL() << "the truncated part was read";
  } catch (const tools::Failure& failure) {
    EXPECT_THAT(failure.what(), testing::HasSubstr("ends at offset 4097"));
  }
}

TEST(RawContent, BytesBeyondTheEndAreZeros) {
  const test::TempDir dir;
  const std::string file = dir.file("a.raw");
  test::write_file(file, std::string(10, 'x'));
  const auto content = open_raw_content(file);
  EXPECT_EQ(content->size(), 10U);
  EXPECT_EQ(content->padded_size(), kPageSize);
  std::vector<std::byte> page(kPageSize, std::byte{1});
  content->read(0, page);
  EXPECT_EQ(std::count(page.begin(), page.end(), std::byte{0}), 4086);
}

TEST(PcowContent, RunsAreThoseOfTheImageAcrossGibs) {
  const test::TempDir dir;
  const std::string file = dir.file("a.pcow");
  test::create_image(file, 3 * pcow::kGiB);
  {
    const auto image = test::open_image(file);
    for (const uint64_t page : {0UL, 1UL, 262143UL, 262144UL, 786431UL}) {
      test::write_page(*image, page, test::pattern_page(page));
    }
    ASSERT_OK(image->close());
  }
  const auto content = open_pcow_content(file, {});
  std::vector<uint64_t> data_pages;
  for (uint64_t at = 0; at < content->size();) {
    const Extent run = content->extent(at);
    EXPECT_EQ(run.start, at);
    for (uint64_t page = 0; run.data && page < run.length / kPageSize; ++page) {
      data_pages.push_back(at / kPageSize + page);
    }
    at += run.length;
  }
  EXPECT_THAT(data_pages, testing::ElementsAre(0, 1, 262143, 262144, 786431));
}

TEST(IsZero, SeesEveryByte) {
  std::vector<std::byte> page(kPageSize);
  EXPECT_TRUE(is_zero(page));
  for (size_t at = 0; at < page.size(); ++at) {
    page[at] = std::byte{1};
    EXPECT_FALSE(is_zero(page)) << at;
    page[at] = std::byte{0};
  }
}

}  // namespace
}  // namespace pcow_img
