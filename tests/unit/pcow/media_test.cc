// SPDX-License-Identifier: BSD-3-Clause
//
// Media on tmpfs, which are mapped: whichever way something is stored or read, it is the same.
#include "pcow/media/media.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "pcow/base/crc32c.h"
#include "tests/support/small_tmpfs.h"

namespace pcow {
namespace {

template <typename T>
T must(Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

constexpr uint64_t kPlace = 3 * kWindowSize;

class MediaTest : public ::testing::Test {
 protected:
  explicit MediaTest(uint64_t size = 2 * kSegmentSize) {
    File file = must(File::open(tmpfs_.file("image"), File::Mode::kCreate));
    must(file.extend(size));
    media_ = must(Media::open(ImageFile(std::move(file)), Access::kReadWrite));
  }
  void reserve(uint64_t offset, uint64_t length) { must(media_->file().reserve(offset, length)); }
  std::vector<std::byte> read(uint64_t offset, uint64_t length) {
    std::vector<std::byte> bytes(length);
    must(media_->read(offset, bytes));
    return bytes;
  }
  // What look() shows, and whether that needed no copy.
  std::pair<std::vector<std::byte>, bool> look(uint64_t offset, uint64_t length) {
    std::vector<std::byte> buffer(length);
    const std::span<const std::byte> shown = must(media_->look(offset, buffer));
    return {{shown.begin(), shown.end()}, shown.data() != buffer.data()};
  }
  static std::vector<std::byte> filled(uint64_t length, int value) {
    return std::vector<std::byte>(length, static_cast<std::byte>(value));
  }
  void expect(uint64_t offset, const std::vector<std::byte>& bytes, bool mapped) {
    EXPECT_EQ(read(offset, bytes.size()), bytes);
    EXPECT_EQ(look(offset, bytes.size()), std::pair(bytes, mapped));
  }

  test::SmallTmpfs tmpfs_{16 * kMiB};
  std::unique_ptr<Media> media_;
};

TEST_F(MediaTest, HoweverItIsStoredItIsThere) {
  EXPECT_GT(media_->line_runs_max(), 0U);
  EXPECT_EQ(media_->granularity(), Granularity::kPage);
  reserve(kPlace, 4 * kPageSize);
  must(media_->write(&StoredBytes::pages, kPlace, filled(kPageSize, 1)));
  must(media_->stream(&StoredBytes::log, kPlace + kPageSize, filled(2 * kPageSize, 2)));
  must(media_->write(&StoredBytes::pages, kPlace + kLineSize, filled(kLineSize, 3)));
  std::vector<std::byte> wanted = filled(kPageSize, 1);
  std::ranges::fill(std::span(wanted).subspan(kLineSize, kLineSize), std::byte{3});
  expect(kPlace, wanted, true);
  expect(kPlace + kPageSize, filled(2 * kPageSize, 2), true);
  must(media_->write(&StoredBytes::pages, kPlace, filled(3 * kPageSize, 4)));
  expect(kPlace, filled(3 * kPageSize, 4), true);
  EXPECT_EQ(media_->stored().pages, 4 * kPageSize + kLineSize);
  EXPECT_EQ(media_->stored().log, 2 * kPageSize);
  must(media_->flush());
}

TEST_F(MediaTest, WhatTwoMappingsHaveIsCopied) {
  const uint64_t place = kSegmentSize - kPageSize;
  reserve(place, 2 * kPageSize);
  must(media_->stream(&StoredBytes::log, place, filled(2 * kPageSize, 5)));
  expect(place, filled(2 * kPageSize, 5), false);
  expect(place + kPageSize, filled(kPageSize, 5), true);
  must(media_->write(&StoredBytes::log, kSegmentSize - 8, filled(16, 6)));
  expect(kSegmentSize - 8, filled(16, 6), false);
}

// Across mappings, and at a place that vectors do not like.
TEST_F(MediaTest, StreamsWhatChangesWithItsChecksum) {
  reserve(kSegmentSize - kPageSize, 2 * kPageSize);
  reserve(kPlace, 2 * kPageSize);
  std::vector<std::byte> bytes(kPageSize + kLineSize);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  constexpr uint32_t kBefore = 0x1234;
  for (const uint64_t place : {kPlace, kPlace + 8, kSegmentSize - kLineSize}) {
    const Copied copied = must(media_->stream_changing(&StoredBytes::log, place, bytes, kBefore));
    EXPECT_EQ(copied.crc, crc32c(bytes, kBefore));
    EXPECT_FALSE(copied.zero);
    EXPECT_EQ(read(place, bytes.size()), bytes) << place;
  }
  EXPECT_EQ(media_->stored().log, 3 * bytes.size());
  bytes.assign(kPageSize, std::byte{0});
  EXPECT_TRUE(must(media_->stream_changing(&StoredBytes::log, kPlace, bytes, 0)).zero);
  bytes.back() = std::byte{1};
  EXPECT_FALSE(must(media_->stream_changing(&StoredBytes::log, kPlace, bytes, 0)).zero);
}

TEST_F(MediaTest, TheChecksumIsOfWhatWasStored) {
  reserve(kPlace, kPageSize);
  std::vector<uint64_t> words(kPageSize / sizeof(uint64_t));
  std::atomic<uint64_t> value = 0;
  std::jthread mutator([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      ++value;
      for (uint64_t& word : words) std::atomic_ref(word).store(value, std::memory_order_relaxed);
    }
  });
  for (int i = 0; i < 2000 || value < 10; ++i) {
    const Copied copied = must(
        media_->stream_changing(&StoredBytes::log, kPlace, std::as_bytes(std::span(words)), 0));
    ASSERT_EQ(copied.crc, crc32c(read(kPlace, kPageSize)));
  }
}

TEST_F(MediaTest, WhatIsPunchedIsZeroInMappings) {
  reserve(kPlace, 2 * kPageSize);
  must(media_->write(&StoredBytes::pages, kPlace, filled(2 * kPageSize, 7)));
  expect(kPlace, filled(2 * kPageSize, 7), true);
  must(media_->file().punch(kPlace, kPageSize));
  reserve(kPlace, kPageSize);
  expect(kPlace, filled(kPageSize, 0), true);
  expect(kPlace + kPageSize, filled(kPageSize, 7), true);
}

class GrowingMediaTest : public MediaTest {
 protected:
  GrowingMediaTest() : MediaTest(kSegmentSize + 4 * kWindowSize) {}
};

TEST_F(GrowingMediaTest, TheNewPartIsMappedAsWell) {
  reserve(kSegmentSize, kPageSize);
  must(media_->stream(&StoredBytes::log, kSegmentSize, filled(kPageSize, 8)));
  expect(kSegmentSize, filled(kPageSize, 8), true);
  const uint64_t later = kSegmentSize + 8 * kWindowSize;
  std::vector<std::byte> buffer(kPageSize);
  const auto none = media_->look(later, buffer);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kCorrupt) << none.error().message;
  must(media_->file().extend(2 * kSegmentSize));
  reserve(later, kPageSize);
  must(media_->stream(&StoredBytes::log, later, filled(kPageSize, 9)));
  expect(later, filled(kPageSize, 9), true);
  expect(kSegmentSize, filled(kPageSize, 8), true);
}

}  // namespace
}  // namespace pcow
