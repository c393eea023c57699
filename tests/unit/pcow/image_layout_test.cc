// SPDX-License-Identifier: BSD-3-Clause
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using Kind = GibLayout::Kind;

constexpr uint64_t kSize = 2 * kGiB;
const test::Page kZeroPage(kPageSize);

class ImageLayoutTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::create_image(path_, kSize, 4 * kMiB);
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }

  // Pages are named by their chunk and their place in it.
  void write(uint64_t chunk, uint64_t page, const test::Page& data) {
    test::write_page(*image_, chunk * kPagesPerChunk + page, data);
  }
  void write(uint64_t chunk, uint64_t page, uint64_t value) {
    write(chunk, page, test::pattern_page(value));
  }
  test::Page read(uint64_t chunk, uint64_t page) {
    return test::read_page(*image_, chunk * kPagesPerChunk + page);
  }
  GibLayout layout() { return image_->layout(GibIndex(0)).value(); }
  // Where the segment of a chunk's window begins.
  FilePlace segment_of(uint64_t chunk) {
    const FilePlace window = layout().chunks.at(chunk).window;
    return {window.file, window.offset - chunk * kWindowSize};
  }
  void close() {
    ASSERT_OK(image_->commit());
    ASSERT_OK(image_->close());
    image_.reset();
    test::expect_clean_check(path_);
  }

  // Chunk 0 is of the snapshot, 1 of the active layer, 2 of both, 3 of both with all of it hidden.
  void make_layers() {
    for (const uint64_t chunk : {0u, 2u, 3u}) write(chunk, 5, 100 + chunk);
    ASSERT_OK(image_->create_snapshot("old"));
    write(1, 5, 201);
    write(2, 6, 202);
    write(3, 5, 203);
    write(3, 6, 204);
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  std::unique_ptr<Image> image_;
};

TEST_F(ImageLayoutTest, TellsWhoseWindowsHoldAChunk) {
  make_layers();
  const GibLayout found = layout();
  EXPECT_EQ(found.chunks[0].kind, Kind::kWindow);
  EXPECT_EQ(found.chunks[1].kind, Kind::kWindow);
  EXPECT_EQ(found.chunks[2].kind, Kind::kMixed);
  EXPECT_EQ(found.chunks[3].kind, Kind::kWindow);
  EXPECT_EQ(found.chunks[4].kind, Kind::kHole);
  EXPECT_NE(segment_of(0), segment_of(1));
  EXPECT_EQ(segment_of(3), segment_of(1));
  EXPECT_TRUE(found.segment.empty());
}

TEST_F(ImageLayoutTest, ASnapshotAloneIsOneSegment) {
  write(7, 5, 107);
  const FilePlace segment = segment_of(7);
  ASSERT_OK(image_->create_snapshot("old"));
  EXPECT_EQ(layout().segment, std::vector{segment});
  EXPECT_EQ(segment_of(7), segment);
}

TEST_F(ImageLayoutTest, FoldingBringsAChunkTogether) {
  make_layers();
  const FilePlace old_window = layout().chunks[0].window;
  const StoredBytes before = image_->info().stored;
  EXPECT_EQ(image_->fold(ChunkIndex(2), 1).value(), 1u);
  const StoredBytes now = image_->info().stored;
  EXPECT_GT(now.copies, before.copies + kPageSize);
  EXPECT_EQ(now.total() - now.copies, before.total() - before.copies);
  EXPECT_EQ(segment_of(2), segment_of(1));
  EXPECT_EQ(layout().chunks[0].window, old_window);
  EXPECT_EQ(read(2, 5), test::pattern_page(102));
  EXPECT_EQ(read(2, 6), test::pattern_page(202));
  EXPECT_EQ(read(2, 7), kZeroPage);
  EXPECT_EQ(image_->fold(ChunkIndex(2), 1).value(), 0u);
  close();
  OpenOptions options;
  options.snapshot = "old";
  const auto old = Image::open(path_, options).value();
  EXPECT_EQ(test::read_page(*old, 2 * kPagesPerChunk + 5), test::pattern_page(102));
  EXPECT_EQ(test::read_page(*old, 2 * kPagesPerChunk + 6), kZeroPage);
}

TEST_F(ImageLayoutTest, FoldingAGibMakesItOneSegment) {
  make_layers();
  EXPECT_EQ(image_->fold(ChunkIndex(0), kChunksPerSegment).value(), 2u);
  EXPECT_FALSE(layout().segment.empty());
  EXPECT_EQ(read(0, 5), test::pattern_page(100));
  close();
}

TEST_F(ImageLayoutTest, AZeroThatHidesAPageStaysZero) {
  write(2, 5, 102);
  write(2, 8, 108);
  ASSERT_OK(image_->create_snapshot("old"));
  write(2, 5, kZeroPage);
  EXPECT_EQ(layout().chunks[2].kind, Kind::kMixed);
  ASSERT_OK(image_->fold(ChunkIndex(2), 1));
  EXPECT_EQ(layout().chunks[2].kind, Kind::kWindow);
  EXPECT_EQ(read(2, 5), kZeroPage);
  EXPECT_EQ(read(2, 8), test::pattern_page(108));
  close();
}

TEST_F(ImageLayoutTest, ThreeLayersFoldIntoOne) {
  write(2, 1, 11);
  ASSERT_OK(image_->create_snapshot("a"));
  write(2, 2, 22);
  write(2, 1, 21);
  ASSERT_OK(image_->create_snapshot("b"));
  EXPECT_EQ(layout().chunks[2].kind, Kind::kWindow);  // "a" is hidden
  write(2, 3, 33);
  EXPECT_EQ(layout().chunks[2].kind, Kind::kMixed);
  EXPECT_EQ(image_->fold(ChunkIndex(2), 1).value(), 2u);
  EXPECT_EQ(layout().chunks[2].kind, Kind::kWindow);
  for (const uint64_t page : {1u, 2u, 3u}) {
    EXPECT_EQ(read(2, page), test::pattern_page(page == 3 ? 33 : 20 + page));
  }
  close();
}

// A crash after folding: the content is as before, folded or not.
TEST_F(ImageLayoutTest, FoldingSurvivesACrash) {
  make_layers();
  ASSERT_OK(image_->commit());
  ASSERT_OK(image_->fold(ChunkIndex(0), kChunksPerSegment));
  image_.reset();
  image_ = test::open_image(path_);
  ASSERT_NE(image_, nullptr);
  EXPECT_EQ(read(0, 5), test::pattern_page(100));
  EXPECT_EQ(read(2, 5), test::pattern_page(102));
  EXPECT_EQ(read(2, 6), test::pattern_page(202));
  EXPECT_EQ(read(3, 5), test::pattern_page(203));
  close();
}

// Chunk 0 is of the base alone, 1 of the image, 2 of both, 3 of both with all of the base hidden.
TEST_F(ImageLayoutTest, ABaseLiesBeneath) {
  for (const uint64_t chunk : {0u, 2u, 3u}) write(chunk, 5, 100 + chunk);
  const FilePlace base_window = layout().chunks[0].window;
  close();
  const std::string clone = dir_.file("clone.pcow");
  ASSERT_OK(Image::create(clone, {.base = Base{path_, BaseFormat::kPcow}}));
  const auto on_base =
      Image::open(clone, {.access = Access::kReadWrite, .base = BaseAccess::kFollow}).value();
  EXPECT_EQ(on_base->file_count(), 2u);
  const auto here = [&] { return on_base->layout(GibIndex(0)).value(); };
  EXPECT_EQ(here().chunks[0].window, (FilePlace{1, base_window.offset}));
  EXPECT_EQ(here().segment, (std::vector<FilePlace>{{1, base_window.offset}}));
  test::write_page(*on_base, 1 * kPagesPerChunk + 5, test::pattern_page(201));
  test::write_page(*on_base, 2 * kPagesPerChunk + 6, test::pattern_page(202));
  test::write_page(*on_base, 3 * kPagesPerChunk + 5, test::pattern_page(203));
  const GibLayout found = here();
  EXPECT_EQ(found.chunks[0].window.file, 1u);
  EXPECT_EQ(found.chunks[1].window.file, 0u);
  EXPECT_EQ(found.chunks[2].kind, Kind::kMixed);
  EXPECT_EQ(found.chunks[3].kind, Kind::kWindow);
  EXPECT_EQ(found.chunks[3].window.file, 0u);
  EXPECT_EQ(found.chunks[4].kind, Kind::kHole);
  EXPECT_TRUE(found.segment.empty());
  EXPECT_EQ(on_base->fold(ChunkIndex(0), kChunksPerSegment).value(), 2u);
  EXPECT_EQ(here().segment.at(0).file, 0u);
  EXPECT_EQ(test::read_page(*on_base, 5), test::pattern_page(100));
  EXPECT_EQ(test::read_page(*on_base, 2 * kPagesPerChunk + 5), test::pattern_page(102));
  ASSERT_OK(on_base->close());
}

// What lies behind the end of a raw base cannot be accessed through a mapping.
TEST_F(ImageLayoutTest, TheLastChunkOfARawBaseIsCopied) {
  const std::string raw = dir_.file("base.raw");
  constexpr uint64_t kEnd = 2 * kChunkSize + 3 * kPageSize + 100;
  test::write_file(raw, std::string(kEnd, 'x'));
  const std::string clone = dir_.file("clone.pcow");
  ASSERT_OK(
      Image::create(clone, {.virtual_size = 4 * kChunkSize, .base = Base{raw, BaseFormat::kRaw}}));
  const auto on_base =
      Image::open(clone, {.access = Access::kReadWrite, .base = BaseAccess::kFollow}).value();
  const GibLayout found = on_base->layout(GibIndex(0)).value();
  EXPECT_EQ(found.chunks[0].window, (FilePlace{1, 0}));
  EXPECT_EQ(found.chunks[1].window, (FilePlace{1, kChunkSize}));
  EXPECT_EQ(found.chunks[2].kind, Kind::kMixed);
  EXPECT_EQ(found.chunks[3].kind, Kind::kHole);
  EXPECT_TRUE(found.segment.empty());
  EXPECT_EQ(on_base->fold(ChunkIndex(2), 1).value(), 4u);
  test::Page last(kPageSize);
  std::fill_n(last.begin(), 100, std::byte{'x'});
  EXPECT_EQ(test::read_page(*on_base, 2 * kPagesPerChunk + 3), last);
  EXPECT_EQ(on_base->layout(GibIndex(0))->chunks[2].window.file, 0u);
  ASSERT_OK(on_base->close());
}

// A size that went down and up again: the base ends where it was cut, also in the middle of a
// chunk.
TEST_F(ImageLayoutTest, WhatABaseHasBehindTheCutDoesNotShow) {
  for (uint64_t chunk = 0; chunk < 4; ++chunk) write(chunk, 5, 100 + chunk);
  close();
  const std::string clone = dir_.file("clone.pcow");
  ASSERT_OK(Image::create(clone, {.base = Base{path_, BaseFormat::kPcow}}));
  const auto on_base =
      Image::open(clone, {.access = Access::kReadWrite, .base = BaseAccess::kFollow}).value();
  ASSERT_OK(on_base->resize(2 * kChunkSize, true));
  ASSERT_OK(on_base->resize(kSize, false));
  const GibLayout found = on_base->layout(GibIndex(0)).value();
  EXPECT_EQ(found.chunks[1].window.file, 1u);
  EXPECT_EQ(found.chunks[2].kind, Kind::kHole);
  EXPECT_EQ(found.chunks[3].kind, Kind::kHole);
  EXPECT_TRUE(found.segment.empty());
  ASSERT_OK(on_base->close());
}

TEST_F(ImageLayoutTest, RefusesWhatItCannotDo) {
  EXPECT_EQ(image_->layout(GibIndex(2)).error().code, Code::kInvalid);
  EXPECT_EQ(image_->fold(ChunkIndex(2 * kChunksPerSegment), 1).error().code, Code::kInvalid);
  EXPECT_EQ(image_->fold(ChunkIndex(1), 2 * kChunksPerSegment).error().code, Code::kInvalid);
  ASSERT_OK(image_->close());
  const auto reader = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(reader->fold(ChunkIndex(0), 1).error().code, Code::kInvalid);
}

}  // namespace
}  // namespace pcow
