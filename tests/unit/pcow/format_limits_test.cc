// SPDX-License-Identifier: BSD-3-Clause
//
// What FORMAT.md allows and this version does not make: it is accepted or named as unsupported, not
// called damage; and what needs a feature bit is damage without it. Engine and checker agree.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "pcow/base/crc32c.h"
#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using format::SegmentKind;
using ::testing::HasSubstr;

constexpr uint64_t kSize = 2 * kGiB;

class FormatLimitsTest : public ::testing::Test {
 protected:
  // One page in the first GiB: segment 0 and one data segment.
  void SetUp() override {
    test::create_image(path_, kSize);
    const auto image = test::open_image(path_);
    test::write_page(*image, 3, test::pattern_page(3));
    ASSERT_OK(image->close());
  }

  format::RootBlock root() const {
    return test::read_block(path_, format::kRootOffset).as<format::RootBlock>();
  }
  uint64_t first_chunk_table() const {
    const uint64_t at = root().active_record;
    const uint64_t block = at - at % kPageSize;
    const uint64_t index = (at - block - sizeof(format::BlockHeader)) / sizeof(format::LayerRecord);
    const auto directory = test::read_block(path_, block);
    const uint64_t table = directory.as<format::LayerDirectoryBlock>().records[index].tables[0];
    return test::read_block(path_, table).as<format::LayerTableBlock>().chunk_tables[0];
  }

  // Appends a segment of this kind to the image.
  void add_segment(SegmentKind kind, uint64_t quarantined = 0) {
    const format::RootBlock before = root();
    const uint64_t index = before.segment_count;
    std::filesystem::resize_file(path_, (index + 1) * kSegmentSize);
    test::forge_block(path_, before.segment_table[0], [&](format::Block& block) {
      block.as<format::SegmentTableBlock>().entries[index].kind = static_cast<uint8_t>(kind);
    });
    test::forge_block(path_, format::kRootOffset, [&](format::Block& block) {
      auto& root = block.as<format::RootBlock>();
      root.segment_count = index + 1;
      root.quarantined_segments = quarantined;
    });
  }

  uint64_t corruptions() const {
    const auto report = check_image(path_, false, {});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report ? report->corruptions : 0;
  }

  // Reads, takes writes to a new GiB and is in order afterwards.
  void expect_usable(bool leaks_allowed = false) {
    test::expect_clean_check(path_, leaks_allowed);
    const auto image = test::open_image(path_);
    ASSERT_NE(image, nullptr);
    EXPECT_EQ(test::read_page(*image, 3), test::pattern_page(3));
    test::write_page(*image, kPagesPerSegment + 5, test::pattern_page(5));
    ASSERT_OK(image->close());
    test::expect_clean_check(path_, leaks_allowed);
  }

  void expect_unsupported(const std::string& message_part) {
    for (const Access access : {Access::kReadOnly, Access::kReadWrite}) {
      OpenOptions options;
      options.access = access;
      const auto image = Image::open(path_, options);
      ASSERT_FALSE(image.has_value());
      EXPECT_EQ(code_name(image.error().code), code_name(Code::kUnsupported));
      EXPECT_THAT(image.error().message, HasSubstr(message_part));
      EXPECT_THAT(image.error().message, HasSubstr(path_));
    }
    const auto report = check_image(path_, false, {});
    ASSERT_FALSE(report.has_value());
    EXPECT_EQ(code_name(report.error().code), code_name(Code::kUnsupported));
    EXPECT_THAT(report.error().message, HasSubstr(path_));
  }

  void set_log(uint64_t offset, uint64_t size) {
    test::forge_superblocks(path_, [&](format::Superblock& sb) {
      sb.log_offset = offset;
      sb.log_size = size;
    });
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_F(FormatLimitsTest, DataChecksumsThatAreNotValidAreIgnored) {
  const uint64_t table = first_chunk_table();
  test::patch_file(path_, table + format::kDataChecksumsOffset, std::string(4096, '\x11'));
  EXPECT_EQ(corruptions(), 1u);
  test::forge_superblocks(path_, [](format::Superblock& sb) {
    sb.compatible = format::kCompatibleDataChecksums;
    sb.autoclear = 2;  // a promise that this version knows nothing of
  });
  expect_usable();
  EXPECT_EQ(test::read_superblock(path_, 0).autoclear, 0u);
  // Behind them, bytes are reserved as ever.
  test::patch_file(path_, table + format::kDataChecksumsOffset + 4096, "x");
  EXPECT_EQ(corruptions(), 1u);
  // Nothing of an image that takes writes has valid ones.
  test::forge_superblocks(
      path_, [](format::Superblock& sb) { sb.autoclear = format::kAutoclearDataChecksumsValid; });
  EXPECT_EQ(corruptions(), 1u + kChunksPerSegment);
}

TEST_F(FormatLimitsTest, ZeroChunksNeedTheirFeature) {
  const uint64_t table = first_chunk_table();
  format::PageMapBytes map;
  map.fill(0xff);
  format::ChunkEntry entry{};
  entry.map_crc = crc32c(std::as_bytes(std::span(map)));
  entry.owned_pages = static_cast<uint16_t>(kPagesPerChunk);
  entry.state = static_cast<uint8_t>(format::ChunkState::kZero);
  const uint64_t at = table + format::kChunkEntriesOffset;
  test::patch_file(path_, at + sizeof(entry),
                   std::string(reinterpret_cast<char*>(&entry), sizeof(entry)));
  test::patch_file(path_, table + format::kPageMapsOffset + sizeof(map),
                   std::string(map.size(), '\xff'));
  test::forge_block(path_, table, [&](format::Block& block) {
    auto& header = block.as<format::ChunkTableHeader>();
    header.entries_crc[0] = crc32c(test::read_block(path_, at).bytes);
    header.owning_chunks[0] |= 2;
  });
  EXPECT_GT(corruptions(), 0u);
  {
    const auto image = test::open_image(path_, Access::kReadOnly);
    test::Page page(kPageSize);
    EXPECT_EQ(image->read(kChunkSize, page).error().code, Code::kCorrupt);
  }
  test::forge_superblocks(
      path_, [](format::Superblock& sb) { sb.incompatible = format::kIncompatibleZeroChunks; });
  expect_unsupported("");
  OpenOptions options;
  EXPECT_THAT(Image::open(path_, options).error().message, HasSubstr("zero-chunks"));
}

TEST_F(FormatLimitsTest, LogsThatCannotBeAreDamage) {
  for (const auto& [offset, size] : {std::pair{256 * kMiB, 2 * kMiB},
                                     {256 * kMiB, 5 * kMiB},
                                     {256 * kMiB, 4 * kGiB},
                                     {257 * kMiB, 64 * kMiB},
                                     {2 * kMiB, 64 * kMiB},
                                     {256 * kMiB, 4 * kGiB - 2 * kMiB},
                                     {kSegmentSize - 2 * kMiB, 64 * kMiB},
                                     {2 * kSegmentSize + 2 * kMiB, 64 * kMiB},
                                     {5 * kSegmentSize, 64 * kMiB},
                                     {format::kMaxSegments * kSegmentSize, 64 * kMiB},
                                     {~uint64_t{0} << 21, 64 * kMiB}}) {
    SCOPED_TRACE(std::to_string(offset) + " " + std::to_string(size));
    set_log(offset, size);
    EXPECT_EQ(corruptions(), 1u);
    const auto opened = Image::open(path_, OpenOptions{});
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(opened.error().code, Code::kCorrupt);
  }
}

TEST_F(FormatLimitsTest, FreeSegmentsAreAccepted) {
  add_segment(SegmentKind::kFree);
  expect_usable();
}

TEST_F(FormatLimitsTest, AFreeSegmentIsAHole) {
  add_segment(SegmentKind::kFree);
  test::patch_file(path_, 2 * kSegmentSize + kPageSize, std::string(kPageSize, '\0'));
  const auto report = check_image(path_, false, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->corruptions, 0u);
  EXPECT_GE(report->leaked_bytes, kPageSize);
  test::patch_file(path_, 2 * kSegmentSize + kPageSize, "x");
  EXPECT_EQ(corruptions(), 1u);
}

TEST_F(FormatLimitsTest, WhatLiesBehindTheLastSegmentIsNotShown) {
  std::filesystem::resize_file(path_, 3 * kSegmentSize);
  test::patch_file(path_, 2 * kSegmentSize, "left behind");
  test::patch_file(path_, 2 * kSegmentSize + 700 * kPageSize, std::string(kPageSize, '\0'));
  expect_usable(true);
  test::expect_clean_check(path_);
  EXPECT_EQ(root().segment_count, 3u);
  const auto image = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(test::read_page(*image, kPagesPerSegment), test::Page(kPageSize));
}

TEST_F(FormatLimitsTest, QuarantinedSegmentsAreCountedAndGivenBack) {
  add_segment(SegmentKind::kQuarantined, 1);
  test::patch_file(path_, 2 * kSegmentSize, "data of a layer that is gone");
  EXPECT_EQ(corruptions(), 0u);
  EXPECT_EQ(check_image(path_, false, {})->leaked_bytes, kPageSize);
  expect_usable(/*leaks_allowed=*/true);
  EXPECT_EQ(check_image(path_, false, {})->leaked_bytes, 0u);
  EXPECT_EQ(test::file_bytes(path_, 2 * kSegmentSize, 4), std::string(4, '\0'));
}

// Slots may lie behind a log that was moved.
TEST_F(FormatLimitsTest, QuarantinedTablesAreGivenBackWhereverSlotsCanBe) {
  constexpr uint64_t kPlace = 200 * kMiB;
  set_log(16 * kMiB, format::kMinLogSize);
  add_segment(SegmentKind::kQuarantined, 1);
  test::forge_block(path_, root().segment_table[0], [](format::Block& block) {
    block.as<format::SegmentTableBlock>().entries[2].owner = kPlace;
  });
  test::forge_block(path_, format::kRootSlotMapOffset, [](format::Block& block) {
    block.as<format::SlotMapBlock>().used[kPlace / format::kSlotSize / 8] |= 1;
  });
  test::patch_file(path_, kPlace + kPageSize, "half of a chunk table");
  expect_usable(/*leaks_allowed=*/true);
  EXPECT_EQ(root().quarantined_segments, 0u);
  EXPECT_EQ(test::file_bytes(path_, kPlace + kPageSize, 4), std::string(4, '\0'));
  expect_usable();
}

TEST_F(FormatLimitsTest, ASegmentIsInQuarantineOnce) {
  add_segment(SegmentKind::kQuarantined, 1);
  EXPECT_EQ(corruptions(), 0u);
  add_segment(SegmentKind::kQuarantined, 1);
  EXPECT_EQ(corruptions(), 1u);
}

TEST_F(FormatLimitsTest, DenseSegmentsNeedWhatTheyBelongTo) {
  add_segment(SegmentKind::kLog);
  EXPECT_EQ(corruptions(), 0u);
  add_segment(SegmentKind::kDense);
  EXPECT_EQ(corruptions(), 1u);
  add_segment(static_cast<SegmentKind>(7));
  EXPECT_EQ(corruptions(), 2u);
}

TEST_F(FormatLimitsTest, SegmentTableSlotsAreThoseOfSegments) {
  test::forge_block(path_, format::kRootOffset, [&](format::Block& block) {
    block.as<format::RootBlock>().segment_table[1] = first_chunk_table();
  });
  const auto report = check_image(path_, false, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->corruptions, 1u);
}

// A slot map that is wrong must not make the engine store metadata over a superblock, or the log.
TEST_F(FormatLimitsTest, OnlySlotsForMetadataAreTaken) {
  for (const uint64_t place : {format::kSuperblockOffset[1], format::kLogOffset}) {
    test::forge_block(path_, format::kRootSlotMapOffset, [&](format::Block& block) {
      auto& used = block.as<format::SlotMapBlock>().used;
      const uint64_t slot = place / format::kSlotSize;
      std::fill(used.begin(), used.end(), uint8_t{0xff});
      used[slot / 8] = static_cast<uint8_t>(~(1u << (slot % 8)));
    });
    const auto image = test::open_image(path_);
    ASSERT_NE(image, nullptr);
    const test::Page page = test::pattern_page(4);
    const PageWrite write{PageIndex(kPagesPerSegment), page.data()};
    EXPECT_EQ(image->write_pages(std::span(&write, 1)).error().code, Code::kCorrupt);
    ASSERT_OK(image->close());
    const auto repaired = repair_image(path_, Repair::kAll, {});
    ASSERT_OK(repaired);
    EXPECT_TRUE(repaired->refused.empty());
    test::expect_clean_check(path_);
  }
}

}  // namespace
}  // namespace pcow
