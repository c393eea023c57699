// SPDX-License-Identifier: BSD-3-Clause
//
// `check -r`: every repair, on an image damaged for it. Afterwards the checker finds nothing, and
// the image and its snapshots show what they showed; what is not repaired is not touched.
#include <cerrno>
#include <cstring>

#include "pcow/base/crc32c.h"
#include "pcow/media/file.h"
#include "tests/support/image_views.h"
#include "tests/support/syscall_faults.h"
#include "tests/unit/pcow/layered_image.h"

namespace pcow {
namespace {

using format::Block;

// Zeros that take up space.
void write_zeros(const std::string& path, uint64_t offset, uint64_t length) {
  test::patch_file(path, offset, std::string(length, '\0'));
}

class RepairTest : public LayeredImageTest {
 protected:
  void SetUp() override {
    make_image();
    views_ = test::views_of(path_);
    ASSERT_EQ(views_.size(), 3u);
    ASSERT_EQ(views_[""].pages.size(), 8u);
    test::expect_clean_check(path_);
  }

  RepairReport repair(Repair what) {
    auto report = repair_image(path_, what, {});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report ? *std::move(report) : RepairReport{};
  }

  // The damage is found, refused as a leak, and repaired without a change of what anybody reads.
  void expect_repaired(Repair what) {
    const uint64_t generation = test::read_superblock(path_, 0).generation;
    const auto before = check_image(path_, false, {});
    ASSERT_OK(before);
    EXPECT_GT(before->corruptions + before->leaked_bytes, 0u);
    if (what == Repair::kAll) expect_refused(Repair::kLeaks);
    const RepairReport report = repair(what);
    EXPECT_TRUE(report.refused.empty()) << report.refused.front();
    EXPECT_EQ(report.found.messages, before->messages);
    EXPECT_TRUE(report.left.messages.empty()) << report.left.messages.front();
    test::expect_clean_check(path_);
    EXPECT_EQ(test::views_of(path_), views_);
    EXPECT_EQ(std::max<uint64_t>(test::read_superblock(path_, 0).generation, generation),
              test::read_superblock(path_, 1 * kMiB).generation);
    EXPECT_EQ(test::read_superblock(path_, 1 * kMiB).state, 0u);
    expect_writable();
  }

  void expect_refused(Repair what) {
    const test::FileContent before = test::content_of(path_);
    const RepairReport report = repair(what);
    EXPECT_FALSE(report.refused.empty());
    EXPECT_EQ(report.found.messages, report.left.messages);
    EXPECT_TRUE(test::content_of(path_) == before);
  }

  // A sound image is one that takes new content of all kinds.
  void expect_writable() {
    {
      const auto image = test::open_image(path_);
      ASSERT_NE(image, nullptr);
      write(*image, {1, 7, 600, 2 * kPagesPerSegment}, 4);
      ASSERT_OK(image->create_snapshot("newest"));
      ASSERT_OK(image->delete_snapshot("old"));
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_);
    test::Views wanted = views_;
    wanted.erase("old");
    for (const uint64_t page : {uint64_t{1}, uint64_t{7}, uint64_t{600}, 2 * kPagesPerSegment}) {
      wanted[""].pages[page] = test::pattern_page(page * 16 + 4);
    }
    wanted["newest"] = wanted[""];
    EXPECT_EQ(test::views_of(path_), wanted);
  }

  format::RootBlock root() const {
    return test::read_block(path_, format::kRootOffset).as<format::RootBlock>();
  }
  format::LayerRecord active_record() const {
    const uint64_t place = root().active_record;
    format::LayerRecord record{};
    const std::string bytes = test::file_bytes(path_, place, sizeof(record));
    std::memcpy(&record, bytes.data(), sizeof(record));
    return record;
  }
  // The chunk table that the active layer starts at.
  uint64_t table(uint64_t gib) const {
    return test::read_block(path_, active_record().tables[0])
        .as<format::LayerTableBlock>()
        .chunk_tables[gib];
  }
  uint64_t segment_of(uint64_t table) const {
    return test::read_block(path_, table).as<format::ChunkTableHeader>().segment;
  }
  void forge_root(const std::function<void(format::RootBlock&)>& change) {
    test::forge_block(path_, format::kRootOffset,
                      [&](Block& block) { change(block.as<format::RootBlock>()); });
  }
  void flip_bit(uint64_t offset) const { test::flip_bit(path_, offset); }
  static uint64_t free_slot() { return format::kLogOffset - 5 * format::kSlotSize; }
  void forge_slot_map(uint64_t slot, bool used) {
    test::forge_block(path_, format::kRootSlotMapOffset, [&](Block& block) {
      uint8_t& byte = block.as<format::SlotMapBlock>().used[slot / format::kSlotSize / 8];
      const auto bit = static_cast<uint8_t>(1u << (slot / format::kSlotSize % 8));
      byte = static_cast<uint8_t>(used ? byte | bit : byte & ~bit);
    });
  }
  // A crash in the middle of an epoch, with a committed one in the log.
  void leave_unclean() {
    const auto image = test::open_image(path_);
    test::PageBatch batch;
    batch.add(100, test::pattern_page(1));
    ASSERT_OK(image->log_pages(batch.writes()));
    ASSERT_OK(image->commit());
    views_[""].pages[100] = test::pattern_page(1);
  }
  // Segments of a snapshot that is gone wait to be emptied, with the chunk tables of some.
  void leave_quarantine(bool closed) {
    {
      const auto image = test::open_image(path_);
      const test::FaultPlan plan(test::Call::kPunch, 1, EIO, true);
      EXPECT_FALSE(image->delete_snapshot("old"));
      EXPECT_FALSE(image->delete_snapshot("new"));
      if (closed) ASSERT_OK(image->close());
    }
    ASSERT_GT(root().quarantined_segments, 0u);
    views_ = test::views_of(path_);
  }
  // The first of them.
  uint64_t quarantined_table() const {
    const Block block = test::read_block(path_, root().segment_table[0]);
    for (const auto& entry : block.as<format::SegmentTableBlock>().entries) {
      const bool waits = entry.kind == static_cast<uint8_t>(format::SegmentKind::kQuarantined);
      if (waits && entry.owner != 0) return entry.owner;
    }
    ADD_FAILURE() << "no chunk table is in quarantine";
    return 0;
  }
  // A writer does not empty a slot that holds something else, and says that a check tells more.
  void expect_other_block_is_given_back() {
    test::forge_block(path_, quarantined_table(), [](Block& block) {
      block.as<format::ChunkTableHeader>().header.type =
          static_cast<uint16_t>(format::BlockType::kLayerTable);
    });
    const auto check = check_image(path_, false, {});
    ASSERT_OK(check);
    EXPECT_EQ(check->corruptions, 1u);
    expect_refused(Repair::kLeaks);
    EXPECT_EQ(test::open_image(path_)->info().warnings.size(), 1u);
    EXPECT_GT(root().quarantined_segments, 0u);
    const RepairReport report = repair(Repair::kAll);
    EXPECT_TRUE(report.refused.empty());
    EXPECT_EQ(root().quarantined_segments, 0u);
    test::expect_clean_check(path_);
    EXPECT_EQ(test::views_of(path_), views_);
  }

  test::Views views_;
};

TEST_F(RepairTest, SoundImageIsNotWritten) {
  const test::FileContent before = test::content_of(path_);
  for (const Repair what : {Repair::kLeaks, Repair::kAll}) {
    const RepairReport report = repair(what);
    EXPECT_TRUE(report.refused.empty());
    EXPECT_TRUE(report.found.messages.empty());
    EXPECT_FALSE(report.recovered);
    EXPECT_TRUE(test::content_of(path_) == before);
  }
}

// On tmpfs nothing but the total tells of it.
TEST_F(RepairTest, GivesBackWhatWasReservedAndNeverStored) {
  constexpr uint64_t kLength = 4 * kMiB;
  for (const uint64_t place : {kSegmentSize + 100 * kMiB, format::kLogOffset + 3 * kMiB}) {
    SCOPED_TRACE(place);
    const auto file = File::open(path_, File::Mode::kReadWrite);
    ASSERT_OK(file);
    const uint64_t before = file->disk_bytes().value();
    ASSERT_OK(file->reserve(place, kLength));
    const auto report = repair_image(path_, Repair::kLeaks, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->found.corruptions, 0u);
    EXPECT_EQ(report->found.leaked_bytes, kLength);
    EXPECT_LE(file->disk_bytes().value(), before + kPageSize);
    test::expect_clean_check(path_);
    ASSERT_OK(file->reserve(place, kLength));
    {
      const auto image = test::open_image(path_);
      EXPECT_LE(kLength,
                image->reclaim_unowned().value_or(0) + (place < kSegmentSize ? kLength : 0));
      test::write_page(*image, 1, test::pattern_page(9));
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_);
  }
}

TEST_F(RepairTest, GivesBackPagesThatNothingOwns) {
  const int64_t blocks = test::content_of(path_).blocks;
  write_zeros(path_, segment_of(table(0)) + 1 * kMiB, 16 * kPageSize);
  write_zeros(path_, segment_of(table(1)) + 20 * kMiB, 3 * kPageSize);
  EXPECT_GT(test::content_of(path_).blocks, blocks);
  const RepairReport report = repair(Repair::kLeaks);
  EXPECT_EQ(report.found.leaked_bytes, 19 * kPageSize);
  EXPECT_EQ(report.left.leaked_bytes, 0u);
  EXPECT_EQ(test::content_of(path_).blocks, blocks);
  write_zeros(path_, segment_of(table(0)) + 1 * kMiB, 16 * kPageSize);
  expect_repaired(Repair::kLeaks);
}

TEST_F(RepairTest, GivesBackSlots) {
  forge_slot_map(free_slot(), true);
  test::patch_file(path_, free_slot() + 100, "left behind");
  expect_repaired(Repair::kLeaks);
}

TEST_F(RepairTest, GivesBackQuarantine) {
  leave_quarantine(/*closed=*/true);
  const auto check = check_image(path_, false, {});
  EXPECT_GT(check->leaked_bytes, 0u);
  const RepairReport report = repair(Repair::kLeaks);
  EXPECT_TRUE(report.refused.empty());
  EXPECT_EQ(root().quarantined_segments, 0u);
  test::expect_clean_check(path_);
  EXPECT_EQ(test::views_of(path_), views_);
}

TEST_F(RepairTest, GivesBackQuarantineThatNamesAnotherBlock) {
  leave_quarantine(/*closed=*/true);
  expect_other_block_is_given_back();
}

TEST_F(RepairTest, GivesBackQuarantineThatNamesAnotherBlockAfterACrash) {
  leave_quarantine(/*closed=*/false);
  expect_other_block_is_given_back();
}

TEST_F(RepairTest, RestoresASuperblockCopy) {
  for (const uint64_t offset : format::kSuperblockOffset) {
    flip_bit(offset + 60);
    const RepairReport report = repair(Repair::kAll);
    EXPECT_TRUE(report.refused.empty());
    test::expect_clean_check(path_);
    EXPECT_EQ(test::views_of(path_), views_);
  }
  flip_bit(60);
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, TakesTheMarkOffASoundImage) {
  test::forge_superblocks(path_, [](format::Superblock& sb) { sb.state = format::kStateCorrupt; });
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, CountsPagesAndLayersAgain) {
  forge_root([](format::RootBlock& root) {
    root.allocated_pages = root.allocated_pages + 5;
    root.layer_count = 2;
    root.quarantined_segments = 9;
  });
  const uint64_t place = root().active_record;
  test::forge_block(path_, place - place % kPageSize, [&](Block& block) {
    auto& records = block.as<format::LayerDirectoryBlock>().records;
    for (format::LayerRecord& record : records) {
      if (record.id != 0) record.allocated_pages = record.allocated_pages + 1000;
    }
  });
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, RebuildsASlotMap) {
  flip_bit(format::kRootSlotMapOffset + 2000);
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, EmptiesSlotsThatARebuiltMapCallsFree) {
  test::patch_file(path_, free_slot() + 100, "left behind");
  flip_bit(format::kRootSlotMapOffset + 70);
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, MarksSlotsInUse) {
  forge_slot_map(table(0), false);
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, RebuildsEntriesFromPageMaps) {
  flip_bit(table(0) + format::kChunkEntriesOffset + 5);
  flip_bit(table(1) + format::kChunkEntriesOffset + kPageSize + 300);
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, CountsPagesOfAChunkAgain) {
  const uint64_t at = table(0) + format::kChunkEntriesOffset;
  Block entries = test::read_block(path_, at);
  reinterpret_cast<format::ChunkEntry*>(entries.bytes.data())->owned_pages = 77;
  test::patch_file(path_, at, {reinterpret_cast<const char*>(entries.bytes.data()), kPageSize});
  const std::string bytes = test::file_bytes(path_, at, kPageSize);
  test::forge_block(path_, table(0), [&](Block& block) {
    auto& header = block.as<format::ChunkTableHeader>();
    header.entries_crc[0] = crc32c(std::as_bytes(std::span(bytes)));
    header.owning_chunks[0] = 0;
  });
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, EmptiesPagesThatNothingOwns) {
  test::patch_file(path_, segment_of(table(0)) + 40 * kPageSize + 5, "stale");
  test::patch_file(path_, segment_of(table(1)) + 700 * kPageSize, "stale");
  expect_repaired(Repair::kAll);
}

TEST_F(RepairTest, RecoversAnImageFirst) {
  leave_unclean();
  const RepairReport report = repair(Repair::kLeaks);
  EXPECT_TRUE(report.recovered);
  EXPECT_TRUE(report.refused.empty());
  test::expect_clean_check(path_);
  EXPECT_TRUE(check_image(path_, false, {})->clean);
  EXPECT_EQ(test::views_of(path_), views_);
}

TEST_F(RepairTest, KeepsTheMarkUntilAllIsRepaired) {
  leave_unclean();
  test::forge_superblocks(
      path_, [](format::Superblock& sb) { sb.state = sb.state | format::kStateCorrupt; });
  forge_slot_map(table(0), false);
  const RepairReport report = repair(Repair::kAll);
  EXPECT_TRUE(report.recovered);
  EXPECT_TRUE(report.refused.empty());
  test::expect_clean_check(path_);
  EXPECT_EQ(test::views_of(path_), views_);
  EXPECT_EQ(test::read_superblock(path_, 0).state, 0u);
}

// Those that are missing may have been in a block that was lost.
TEST_F(RepairTest, DoesNotCountLayersThatAreMissingAway) {
  forge_root([](format::RootBlock& root) { root.layer_count = 4; });
  expect_refused(Repair::kLeaks);
  expect_refused(Repair::kAll);
}

// What cannot be proven is named, and keeps all of the repair from being done.
TEST_F(RepairTest, RefusesWhatItCannotProve) {
  const std::vector<uint64_t> unproven = {
      format::kRootOffset + 300,                                     // root block
      table(0) + 200,                                                // header of a chunk table
      table(0) + format::kPageMapsOffset,                            // page map
      active_record().tables[0] + 70,                                // layer table
      root().active_record - root().active_record % kPageSize + 80,  // layer directory
      root().segment_table[0] + 64,                                  // segment table
  };
  forge_slot_map(free_slot(), true);
  for (const uint64_t offset : unproven) {
    flip_bit(offset);
    const auto check = check_image(path_, false, {});
    ASSERT_OK(check);
    EXPECT_GT(check->corruptions, 0u) << offset;
    expect_refused(Repair::kLeaks);
    expect_refused(Repair::kAll);
    flip_bit(offset);
  }
  leave_unclean();
  const uint64_t other_chunk = table(0) + format::kPageMapsOffset + kLineSize;  // not in the log
  flip_bit(other_chunk);
  EXPECT_GT(check_image(path_, false, {})->corruptions, 0u);
  expect_refused(Repair::kAll);
  flip_bit(other_chunk);
  flip_bit(60);
  flip_bit(1 * kMiB + 60);
  EXPECT_EQ(check_image(path_, false, {})->corruptions, 2u);
  expect_refused(Repair::kAll);
}

TEST_F(RepairTest, NeedsTheImageForItself) {
  const auto reader = test::open_image(path_, Access::kReadOnly);
  const auto report = repair_image(path_, Repair::kAll, {});
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code, Code::kBusy);
}

// --- the mark ------------------------------------------------------------------------------------

TEST_F(RepairTest, DamageStopsWriters) {
  flip_bit(table(0) + 200);
  {
    const auto image = test::open_image(path_);
    ASSERT_NE(image, nullptr);
    const test::Page data = test::pattern_page(5);
    const PageWrite to_damaged{PageIndex(3), data.data()};
    const PageWrite elsewhere{PageIndex(2 * kPagesPerSegment + 1), data.data()};
    ASSERT_OK(image->write_pages(std::span(&elsewhere, 1)));
    EXPECT_EQ(image->write_pages(std::span(&to_damaged, 1)).error().code, Code::kCorrupt);
    EXPECT_EQ(image->write_pages(std::span(&elsewhere, 1)).error().code, Code::kCorrupt);
    EXPECT_EQ(image->create_snapshot("x").error().code, Code::kCorrupt);
    EXPECT_TRUE(image->info().marked_corrupt);
    ASSERT_OK(image->commit());
    ASSERT_OK(image->close());
  }
  OpenOptions options;
  options.access = Access::kReadWrite;
  const auto refused = Image::open(path_, options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kCorrupt);
  EXPECT_NE(refused.error().message.find("pcow-img check -r all"), std::string::npos);
  const auto reader = test::open_image(path_, Access::kReadOnly);
  ASSERT_NE(reader, nullptr);
  EXPECT_EQ(reader->info().warnings.size(), 1u);
  EXPECT_EQ(test::read_page(*reader, kPagesPerSegment), views_[""].pages[kPagesPerSegment]);
  EXPECT_EQ(test::read_page(*reader, 2 * kPagesPerSegment + 1), test::pattern_page(5));
}

TEST_F(RepairTest, DamageThatIsReadIsMarkedEvenInAnImageThatWasNotWritten) {
  flip_bit(table(0) + format::kPageMapsOffset);
  {
    const auto image = test::open_image(path_);
    test::Page page(kPageSize);
    EXPECT_FALSE(image->read(0, page).has_value());
  }
  EXPECT_EQ(test::read_superblock(path_, 0).state, format::kStateCorrupt);
  EXPECT_EQ(test::read_superblock(path_, 1 * kMiB).state, format::kStateCorrupt);
}

TEST_F(RepairTest, ReadersLeaveNoMark) {
  flip_bit(table(0) + format::kPageMapsOffset);
  const test::FileContent before = test::content_of(path_);
  const auto image = test::open_image(path_, Access::kReadOnly);
  test::Page page(kPageSize);
  EXPECT_FALSE(image->read(0, page).has_value());
  EXPECT_TRUE(test::content_of(path_) == before);
}

// --- faults --------------------------------------------------------------------------------------

// Whichever call fails, what anybody reads stays, and the repair can be repeated.
TEST_F(RepairTest, MayFailAnywhereAndBeRepeated) {
  const auto damage = [&] {
    forge_slot_map(free_slot(), true);
    forge_slot_map(table(0), false);
    flip_bit(table(0) + format::kChunkEntriesOffset + 5);
    forge_root([](format::RootBlock& root) { root.allocated_pages = 3; });
    test::patch_file(path_, segment_of(table(0)) + 40 * kPageSize + 5, "stale");
    write_zeros(path_, segment_of(table(1)) + 20 * kMiB, 3 * kPageSize);
    test::forge_superblocks(
        path_, [](format::Superblock& sb) { sb.state = sb.state | format::kStateCorrupt; });
  };
  uint64_t failed = 0;
  for (const test::Call call : test::kMediumCalls) {
    for (uint64_t nth = 1;; nth += test::fault_step()) {
      ASSERT_LT(nth, 500u);
      damage();
      bool hit = false;
      {
        const test::FaultPlan plan(call, nth, EIO);
        const auto report = repair_image(path_, Repair::kAll, {});
        hit = plan.hit();
        if (!report.has_value()) {
          ++failed;
          EXPECT_EQ(report.error().sys_errno, EIO) << report.error().message;
        }
      }
      const RepairReport again = repair(Repair::kAll);
      EXPECT_TRUE(again.refused.empty()) << test::call_name(call) << " " << nth;
      test::expect_clean_check(path_);
      EXPECT_EQ(test::views_of(path_), views_) << test::call_name(call) << " " << nth;
      if (!hit || ::testing::Test::HasFailure()) break;
    }
  }
  EXPECT_GT(failed, 20u);
}

}  // namespace
}  // namespace pcow
