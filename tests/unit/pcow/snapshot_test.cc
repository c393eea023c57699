// SPDX-License-Identifier: BSD-3-Clause
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kSize = 4 * kGiB;

test::Page page_of(uint64_t value) { return test::pattern_page(value); }
const test::Page kZeroPage(kPageSize);

class SnapshotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::create_image(path_, kSize, 4 * kMiB);
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }

  void write(uint64_t page, uint64_t value) { test::write_page(*image_, page, page_of(value)); }
  test::Page read(uint64_t page) { return test::read_page(*image_, page); }

  test::Page read_in(const std::string& snapshot, uint64_t page) {
    OpenOptions options;
    options.snapshot = snapshot;
    auto image = Image::open(path_, options);
    EXPECT_TRUE(image.has_value()) << image.error().message;
    return image ? test::read_page(**image, page) : test::Page();
  }

  void close() {
    ASSERT_OK(image_->close());
    image_.reset();
    test::expect_clean_check(path_);
  }
  void reopen() {
    close();
    image_ = test::open_image(path_);
    ASSERT_NE(image_, nullptr);
  }

  std::vector<std::string> names() {
    std::vector<std::string> list;
    const auto snapshots = image_->snapshots().value();
    list.reserve(snapshots.size());
    for (const SnapshotInfo& snapshot : snapshots) list.push_back(snapshot.name);
    return list;
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  std::unique_ptr<Image> image_;
};

TEST_F(SnapshotTest, KeepsWhatWasThere) {
  write(1, 11);
  write(2, 12);
  ASSERT_OK(image_->create_snapshot("one"));
  write(2, 22);
  write(3, 23);
  EXPECT_EQ(read(1), page_of(11));
  EXPECT_EQ(read(2), page_of(22));
  EXPECT_EQ(read(3), page_of(23));
  close();
  EXPECT_EQ(read_in("one", 1), page_of(11));
  EXPECT_EQ(read_in("one", 2), page_of(12));
  EXPECT_EQ(read_in("one", 3), kZeroPage);
}

TEST_F(SnapshotTest, AZeroWrittenOverASnapshotsPageIsZero) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  test::write_page(*image_, 1, kZeroPage);
  test::write_page(*image_, 2, kZeroPage);
  EXPECT_EQ(read(1), kZeroPage);
  reopen();
  EXPECT_EQ(read(1), kZeroPage);
  EXPECT_EQ(image_->info().allocated_bytes, 2 * kPageSize);  // the one, and the zero over it
  close();
  EXPECT_EQ(read_in("one", 1), page_of(11));
}

TEST_F(SnapshotTest, ListsThemWithWhatTheyKeep) {
  EXPECT_TRUE(names().empty());
  write(1, 1);
  ASSERT_OK(image_->create_snapshot("first"));
  write(1, 2);
  write(2, 2);
  ASSERT_OK(image_->resize(8 * kGiB, false));
  ASSERT_OK(image_->create_snapshot("second"));
  const auto list = image_->snapshots().value();
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].name, "first");
  EXPECT_EQ(list[0].virtual_size, kSize);
  EXPECT_EQ(list[0].allocated_bytes, kPageSize);
  EXPECT_FALSE(list[0].parent.has_value());
  EXPECT_EQ(list[1].name, "second");
  EXPECT_EQ(list[1].virtual_size, 8 * kGiB);
  EXPECT_EQ(list[1].allocated_bytes, 2 * kPageSize);
  EXPECT_EQ(list[1].parent, list[0].id);
  EXPECT_GT(list[1].epoch, list[0].epoch);
  EXPECT_GT(list[0].created_ns, 0u);
  reopen();
  EXPECT_EQ(names(), (std::vector<std::string>{"first", "second"}));
}

TEST_F(SnapshotTest, NamesAreCheckedAndUnique) {
  ASSERT_OK(image_->create_snapshot("a"));
  EXPECT_EQ(image_->create_snapshot("a").error().code, Code::kExists);
  EXPECT_EQ(image_->create_snapshot("").error().code, Code::kInvalid);
  EXPECT_EQ(image_->create_snapshot(std::string(128, 'x')).error().code, Code::kInvalid);
  for (const char* name : {"a\nb", "\x7f", "\xff", "\x80", "\xc3", "\xc3(", "\xc0\xaf", "\xc2\x9b",
                           "\xe2\x82", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf0\x80\x80\xaf",
                           "\xf4\x90\x80\x80", "\xf5\x80\x80\x80"}) {
    const auto created = image_->create_snapshot(name);
    ASSERT_FALSE(created.has_value()) << name;
    EXPECT_EQ(created.error().code, Code::kInvalid);
  }
  for (const char* name : {"\xc2\xa0", "\xe2\x82\xac", "\xed\x9f\xbf", "\xf0\x9f\x98\x80"}) {
    ASSERT_OK(image_->create_snapshot(name));
    ASSERT_OK(image_->delete_snapshot(name));
  }
  ASSERT_OK(image_->create_snapshot(std::string(127, 'x')));
  EXPECT_EQ(image_->delete_snapshot("b").error().code, Code::kNotFound);
  EXPECT_EQ(image_->apply_snapshot("b").error().code, Code::kNotFound);
  EXPECT_THAT(image_->apply_snapshot("b").error().message, HasSubstr("'b'"));
  ASSERT_OK(image_->delete_snapshot("a"));
  ASSERT_OK(image_->create_snapshot("a"));
  close();
}

TEST_F(SnapshotTest, GoesBackAndForth) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  write(1, 21);
  write(kPagesPerSegment, 22);
  ASSERT_OK(image_->resize(8 * kGiB, false));
  ASSERT_OK(image_->create_snapshot("two"));
  write(1, 31);
  ASSERT_OK(image_->apply_snapshot("one"));
  EXPECT_EQ(image_->virtual_size(), kSize);
  EXPECT_EQ(read(1), page_of(11));
  EXPECT_EQ(read(kPagesPerSegment), kZeroPage);
  write(2, 41);
  ASSERT_OK(image_->create_snapshot("branch"));
  reopen();
  ASSERT_OK(image_->apply_snapshot("two"));
  EXPECT_EQ(image_->virtual_size(), 8 * kGiB);
  EXPECT_EQ(read(1), page_of(21));
  EXPECT_EQ(read(2), kZeroPage);
  EXPECT_EQ(read(kPagesPerSegment), page_of(22));
  reopen();
  EXPECT_EQ(read(1), page_of(21));
  ASSERT_OK(image_->apply_snapshot("branch"));
  EXPECT_EQ(read(1), page_of(11));
  EXPECT_EQ(read(2), page_of(41));
  close();
}

TEST_F(SnapshotTest, DeletingKeepsWhatOthersShow) {
  write(1, 11);
  write(2, 12);
  write(kPagesPerSegment, 13);
  ASSERT_OK(image_->create_snapshot("one"));
  write(1, 21);
  ASSERT_OK(image_->create_snapshot("two"));
  write(2, 32);
  ASSERT_OK(image_->delete_snapshot("one"));
  EXPECT_EQ(read(1), page_of(21));
  EXPECT_EQ(read(2), page_of(32));
  EXPECT_EQ(read(kPagesPerSegment), page_of(13));
  close();
  EXPECT_EQ(read_in("two", 1), page_of(21));
  EXPECT_EQ(read_in("two", 2), page_of(12));
  image_ = test::open_image(path_);
  ASSERT_OK(image_->delete_snapshot("two"));
  EXPECT_EQ(read(1), page_of(21));
  EXPECT_EQ(read(2), page_of(32));
  EXPECT_EQ(image_->info().allocated_bytes, 3 * kPageSize);
  close();
  EXPECT_EQ(test::read_superblock(path_, 0).incompatible, 0u);
}

// The segments of what is deleted are used again, and empty.
TEST_F(SnapshotTest, RollingSnapshotsTakeNoMoreSpace) {
  uint64_t most_disk = 0;
  for (uint64_t round = 0; round < 40; ++round) {
    write(round % 7, round);
    write(kPagesPerSegment + round, round);
    ASSERT_OK(image_->create_snapshot(std::to_string(round)));
    if (round >= 3) ASSERT_OK(image_->delete_snapshot(std::to_string(round - 3)));
    if (round == 10) most_disk = image_->info().disk_bytes;
  }
  EXPECT_EQ(names().size(), 3u);
  EXPECT_LE(image_->info().disk_bytes, most_disk + 60 * kPageSize);
  close();
  const auto report = check_image(path_, false, {});
  ASSERT_OK(report);
  EXPECT_LE(report->segments, 8u);
  EXPECT_LE(std::filesystem::file_size(path_), 12 * kSegmentSize);
  for (uint64_t page = 0; page < 40; ++page) {
    EXPECT_EQ(read_in("39", kPagesPerSegment + page), page_of(page));
  }
}

TEST_F(SnapshotTest, ShrinkingAndGrowingHidesWhatSnapshotsHold) {
  constexpr uint64_t kInPart = 5 * kPagesPerChunk;
  constexpr uint64_t kInWhole = 2 * kPagesPerSegment + 3;
  write(1, 1);
  write(kInPart, 2);
  write(kInWhole, 3);
  ASSERT_OK(image_->create_snapshot("big"));
  ASSERT_OK(image_->resize(4 * kChunkSize, true));
  reopen();
  ASSERT_OK(image_->create_snapshot("small"));
  ASSERT_OK(image_->resize(kSize, false));
  EXPECT_EQ(read(1), page_of(1));
  EXPECT_EQ(read(kInPart), kZeroPage);
  EXPECT_EQ(read(kInWhole), kZeroPage);
  write(kInPart + 1, 4);
  ASSERT_OK(image_->apply_snapshot("small"));
  EXPECT_EQ(image_->virtual_size(), 4 * kChunkSize);
  ASSERT_OK(image_->delete_snapshot("big"));
  ASSERT_OK(image_->delete_snapshot("small"));
  ASSERT_OK(image_->resize(kSize, false));
  EXPECT_EQ(read(1), page_of(1));
  EXPECT_EQ(read(kInPart), kZeroPage);
  EXPECT_EQ(read(kInWhole), kZeroPage);
  close();
}

TEST_F(SnapshotTest, GoesOnWhereACrashLeftIt) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  write(1, 21);
  image_.reset();  // as after a crash
  image_ = test::open_image(path_);
  ASSERT_NE(image_, nullptr);
  EXPECT_EQ(names(), std::vector<std::string>{"one"});
  EXPECT_EQ(read(1), page_of(21));
  ASSERT_OK(image_->delete_snapshot("one"));
  image_.reset();
  image_ = test::open_image(path_);
  ASSERT_NE(image_, nullptr);
  EXPECT_EQ(read(1), page_of(21));
  close();
}

// What was logged with a page must not come back over what was stored in place later.
TEST_F(SnapshotTest, RecoveryDoesNotUndoLaterWrites) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  write(1, 21);
  write(1, 31);
  ASSERT_OK(image_->commit());
  image_.reset();
  image_ = test::open_image(path_);
  ASSERT_NE(image_, nullptr);
  EXPECT_EQ(read(1), page_of(31));
  close();
}

TEST_F(SnapshotTest, ASnapshotIsOpenedForReadingOnly) {
  write(1, 11);
  ASSERT_OK(image_->create_snapshot("one"));
  close();
  OpenOptions options;
  options.snapshot = "one";
  options.access = Access::kReadWrite;
  EXPECT_EQ(Image::open(path_, options).error().code, Code::kInvalid);
  options.access = Access::kReadOnly;
  options.snapshot = "two";
  EXPECT_EQ(Image::open(path_, options).error().code, Code::kNotFound);
}

// Images that nobody made by these rules.
class ForgedSnapshotTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    write(1, 11);
    ASSERT_OK(image_->create_snapshot("one"));
    write(2, 12);
    ASSERT_OK(image_->create_snapshot("two"));
    write(3, 13);
    close();
    const auto root = test::read_block(path_, format::kRootOffset).as<format::RootBlock>();
    directory_ = root.layer_directory[0];
    const auto records = test::read_block(path_, directory_).as<format::LayerDirectoryBlock>();
    table_ = test::read_block(path_, records.records[2].tables[0])
                 .as<format::LayerTableBlock>()
                 .chunk_tables[0];
    parent_ = test::read_block(path_, table_).as<format::ChunkTableHeader>().parent;
  }

  void forge_record(size_t index, const std::function<void(format::LayerRecord&)>& change) {
    test::forge_block(path_, directory_, [&](format::Block& block) {
      change(block.as<format::LayerDirectoryBlock>().records[index]);
    });
  }
  void forge_table(uint64_t table, const std::function<void(format::ChunkTableHeader&)>& change) {
    test::forge_block(path_, table,
                      [&](format::Block& block) { change(block.as<format::ChunkTableHeader>()); });
  }
  void forge_layer_table(size_t index,
                         const std::function<void(format::LayerTableBlock&)>& change) {
    const auto records = test::read_block(path_, directory_).as<format::LayerDirectoryBlock>();
    test::forge_block(path_, records.records[index].tables[0],
                      [&](format::Block& block) { change(block.as<format::LayerTableBlock>()); });
  }
  // As a crash leaves it.
  void forge_deletion_of_one() {
    forge_record(0, [](format::LayerRecord& record) {
      record.flags = format::kLayerFrozen | format::kLayerDeleting;
      record.name_length = 0;
      record.name = {};
    });
    test::forge_block(path_, format::kRootOffset, [&](format::Block& block) {
      block.as<format::RootBlock>().deleting_record = directory_ + sizeof(format::BlockHeader);
    });
    test::forge_superblocks(path_, [](format::Superblock& superblock) {
      superblock.state = superblock.state | format::kStateDirty;
    });
  }
  // Of a new segment, and of a chunk table.
  void forge_quarantine(uint64_t table) {
    const auto root = test::read_block(path_, format::kRootOffset).as<format::RootBlock>();
    std::filesystem::resize_file(path_, (root.segment_count + 1) * kSegmentSize);
    test::forge_block(path_, root.segment_table[0], [&](format::Block& block) {
      auto& entry = block.as<format::SegmentTableBlock>().entries[root.segment_count];
      entry.kind = static_cast<uint8_t>(format::SegmentKind::kQuarantined);
      entry.owner = table;
    });
    test::forge_block(path_, format::kRootOffset, [&](format::Block& block) {
      auto& forged = block.as<format::RootBlock>();
      forged.segment_count = root.segment_count + 1;
      forged.quarantined_segments = 1;
    });
  }
  void expect_corrupt(const std::string& message_part) {
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_GT(report->corruptions, 0u);
    std::string all;
    for (const std::string& message : report->messages) all += message + "\n";
    EXPECT_THAT(all, HasSubstr(message_part));
  }

  uint64_t directory_ = 0;
  uint64_t table_ = 0;   // of the active layer, for the first GiB
  uint64_t parent_ = 0;  // of that table
};

TEST_F(ForgedSnapshotTest, ChainsThatGoRoundEnd) {
  forge_table(parent_, [&](format::ChunkTableHeader& header) { header.parent = table_; });
  expect_corrupt("more tables show through it than there are layers");
  const auto image = test::open_image(path_);
  ASSERT_NE(image, nullptr);
  test::Page page(kPageSize);
  EXPECT_EQ(image->read(5 * kPageSize, page).error().code, Code::kCorrupt);
  (void)image->delete_snapshot("two");  // ends
}

// The same for tables that are given up one after the other.
TEST_F(ForgedSnapshotTest, GivingUpTablesThatGoRoundEnds) {
  const auto owned_by_active = [](format::ChunkTableHeader& header) {
    header.layer = 3;
    header.header.owner = 3;
  };
  forge_table(parent_, owned_by_active);
  forge_table(parent_, [&](format::ChunkTableHeader& header) { header.parent = table_; });
  for (size_t snapshot = 0; snapshot < 2; ++snapshot) {
    forge_layer_table(snapshot, [](format::LayerTableBlock& table) { table.chunk_tables[0] = 0; });
  }
  const auto image = test::open_image(path_);
  ASSERT_NE(image, nullptr);
  EXPECT_EQ(image->apply_snapshot("one").error().code, Code::kCorrupt);
}

// A crash in the middle of a deletion, and a table of the deleted layer that is damaged: the open
// must not fail after it has changed the file.
TEST_F(ForgedSnapshotTest, ADeletionThatCannotGoOnDoesNotStopAnOpen) {
  forge_deletion_of_one();
  forge_layer_table(0, [](format::LayerTableBlock& table) { table.header.type = 0; });
  const auto image = test::open_image(path_);
  ASSERT_NE(image, nullptr);
  EXPECT_THAT(image->info().warnings, ElementsAre(HasSubstr("deletion")));
  EXPECT_EQ(test::read_page(*image, 1), page_of(11));
  EXPECT_EQ(image->delete_snapshot("two").error().code, Code::kCorrupt);
}

// The slots that a deletion empties are those of a layer table.
TEST_F(ForgedSnapshotTest, ADeletionEmptiesNothingOutsideTheImage) {
  forge_deletion_of_one();
  forge_record(0, [](format::LayerRecord& record) { record.tables[1] = 4096; });
  const auto image = test::open_image(path_);
  ASSERT_NE(image, nullptr);
  EXPECT_THAT(image->info().warnings, ElementsAre(HasSubstr("deletion")));
  EXPECT_EQ(image->delete_snapshot("two").error().code, Code::kCorrupt);
}

TEST_F(ForgedSnapshotTest, ParentsOutsideTheImageAreRefused) {
  for (const uint64_t parent : {uint64_t{1} << 50, table_ + 4096, table_}) {
    forge_table(table_, [&](format::ChunkTableHeader& header) { header.parent = parent; });
    const auto image = test::open_image(path_, Access::kReadOnly);
    test::Page page(kPageSize);
    EXPECT_EQ(image->read(0, page).error().code, Code::kCorrupt);
    const auto report = check_image(path_, false, {});
    EXPECT_GT(report->corruptions, 0u);
  }
}

TEST_F(ForgedSnapshotTest, TheCheckerKnowsTheRulesOfRecords) {
  forge_record(1, [](format::LayerRecord& record) { record.name = {'o', 'n', 'e'}; });
  expect_corrupt("two snapshots have the name");
  forge_record(1, [](format::LayerRecord& record) { record.name = {'o', 'n', '\0', 'e'}; });
  expect_corrupt("impossible name");
  forge_record(1, [](format::LayerRecord& record) {
    record.name = {'t', 'w', 'o'};
    record.parent = 3;
  });
  expect_corrupt("impossible parent of layer 2");
  forge_record(1, [](format::LayerRecord& record) { record.parent = 1, record.flags = 3; });
  expect_corrupt("impossible record of layer 2");
  forge_record(1, [](format::LayerRecord& record) { record.flags = 1; });
  test::expect_clean_check(path_);
  forge_record(
      1, [](format::LayerRecord& record) { record.allocated_pages = record.allocated_pages + 1; });
  expect_corrupt("layer 2 owns 1 pages, its record says 2");
}

TEST_F(ForgedSnapshotTest, TheCheckerKnowsWhomTablesBelongTo) {
  forge_table(parent_, [](format::ChunkTableHeader& header) {
    header.layer = 1;
    header.header.owner = 1;
  });
  expect_corrupt("it belongs to a layer that does not name it");
}

TEST_F(ForgedSnapshotTest, ADeletionThatNeverWasIsNotGoneOnWith) {
  test::forge_block(path_, format::kRootOffset, [&](format::Block& block) {
    block.as<format::RootBlock>().deleting_record = directory_ + 64 + 15 * 256;
  });
  expect_corrupt("the layer that is being deleted has no record");
  EXPECT_EQ(Image::open(path_, OpenOptions{}).error().code, Code::kCorrupt);
}

TEST_F(ForgedSnapshotTest, QuarantineDoesNotEmptyWhatIsNoChunkTable) {
  forge_quarantine(directory_);
  expect_corrupt("used twice");
  const auto image = test::open_image(path_);
  ASSERT_NE(image, nullptr);
  EXPECT_EQ(image->delete_snapshot("one").error().code, Code::kCorrupt);
  EXPECT_EQ(image->snapshots().value().size(), 2u);
}

TEST_F(ForgedSnapshotTest, QuarantineDoesNotEmptyData) {
  forge_quarantine(test::read_block(path_, table_).as<format::ChunkTableHeader>().segment);
  expect_corrupt("a slot of metadata where none can be");
  const auto image = test::open_image(path_);
  ASSERT_NE(image, nullptr);
  EXPECT_THAT(image->info().warnings, ElementsAre(HasSubstr("deletion")));
  EXPECT_EQ(test::read_page(*image, 3), page_of(13));
}

}  // namespace
}  // namespace pcow
