// SPDX-License-Identifier: BSD-3-Clause
//
// Logs nobody's writer made, with right checksums: the engine and the checker, which share no code
// here, must end, stay within the ring and come to the same verdict.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>

#include "pcow/check/log_check.h"
#include "pcow/engine/log_scan.h"
#include "pcow/format/block.h"
#include "tests/support/image_fixture.h"
#include "tests/unit/pcow/log_record_bytes.h"

namespace pcow {
namespace {

using format::RecordType;

constexpr uint64_t kRing = 4 * kMiB;
constexpr uint64_t kImageEnd = 1 * kGiB;  // nothing is written: segment 0 alone

class CraftedLogTest : public ::testing::Test {
 protected:
  void SetUp() override { fresh(0); }

  // An image that was not closed cleanly, with an empty log.
  void fresh(uint64_t tail) {
    unlink(path_.c_str());
    test::create_image(path_, 64 * kMiB, kRing);
    test::forge_superblocks(path_, [&](format::Superblock& sb) {
      sb.state = format::kStateDirty;
      sb.log_tail = tail;
      sb_ = sb;
    });
    root_line_ = test::file_bytes(path_, format::kRootOffset, kLineSize);
  }

  // Puts a record with a right checksum; no `length`: as the payload says. Returns the next LSN.
  uint64_t put(RecordType type, uint64_t lsn, uint64_t target, uint64_t mask,
               std::optional<uint32_t> length, const std::string& payload = "") {
    const std::string bytes =
        log_record({type, sb_.log_generation, lsn, target, mask}, payload, length);
    // The rest crosses the ring's end.
    test::patch_file(path_, sb_.log_offset + lsn % kRing, bytes.substr(0, kRing - lsn % kRing));
    return lsn + bytes.size();
  }
  uint64_t put_pad(uint64_t lsn, uint64_t length) {
    put(RecordType::kPad, lsn, 0, 0, static_cast<uint32_t>(length));
    return lsn + length;
  }
  // A line of the root block as it is: replaying it changes nothing.
  uint64_t put_lines(uint64_t lsn, uint64_t target = format::kRootOffset) {
    return put(RecordType::kLines, lsn, target, 1, {}, root_line_);
  }
  // The first `count` pages of a window become zero.
  uint64_t put_zeros(uint64_t lsn, uint64_t window, size_t count) {
    BitLine pages;
    for (size_t page = 0; page < count; ++page) pages.set(page);
    const auto bytes = bytes_of(pages);
    return put(RecordType::kZeros, lsn, window, 0, {},
               std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  }
  uint64_t put_commit(uint64_t lsn, uint64_t first, uint64_t count) {
    return put(RecordType::kCommit, lsn, first, count, {});
  }

  // Both readers see `records` and no damage, and the image opens and recovers.
  void expect_records(uint64_t records) {
    expect_readers_agree();
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->corruptions, 0u)
        << (report->messages.empty() ? "" : report->messages.front());
    EXPECT_EQ(report->log_records, records);
    OpenOptions options;
    options.replay_in_memory = true;
    ASSERT_OK(Image::open(path_, options));
    ASSERT_OK(test::open_image(path_)->close());
    test::expect_clean_check(path_, true);
  }

  void expect_corrupt() {
    expect_readers_agree();
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_GT(report->corruptions, 0u);
    for (const Access access : {Access::kReadOnly, Access::kReadWrite}) {
      OpenOptions options;
      options.access = access;
      options.replay_in_memory = access == Access::kReadOnly;
      const auto image = Image::open(path_, options);
      ASSERT_FALSE(image.has_value());
      EXPECT_EQ(code_name(image.error().code), code_name(Code::kCorrupt)) << image.error().message;
    }
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  format::Superblock sb_{};
  std::string root_line_;

 private:
  void expect_readers_agree() {
    auto file = File::open(path_, File::Mode::kRead);
    ASSERT_OK(file);
    auto copy = file->duplicate();
    ASSERT_OK(copy);
    const ImageReader file_again(std::move(*copy), false);
    const auto checked = read_committed_log(file_again, sb_);
    ASSERT_OK(checked);
    const auto media = Media::open(ImageFile(std::move(*file)), Access::kReadOnly);
    ASSERT_OK(media);
    const auto scanned =
        scan_log(**media, {sb_.log_offset, sb_.log_size, sb_.log_generation, sb_.log_tail});
    ASSERT_EQ(scanned.has_value(), !checked->damaged_at.has_value());
    if (!scanned) return;
    EXPECT_EQ(scanned->records, checked->records);
    std::map<uint64_t, uint64_t> lines;  // masks by page
    for (const auto& [target, pieces] : scanned->pages) {
      for (const LoggedLines& piece : pieces) lines[target] |= piece.mask;
      if (target + kPageSize < target) continue;  // nobody reads there
      format::Block by_engine;
      by_engine.bytes.fill(std::byte{0xaa});
      format::Block by_checker = by_engine;
      ASSERT_OK(scanned->lay_over(**media, target, by_engine.bytes));
      ASSERT_OK(checked->lay_over(file_again, target, by_checker.bytes));
      EXPECT_EQ(by_engine, by_checker) << target;
    }
    std::map<uint64_t, uint64_t> checked_lines;
    for (const CommittedLog::Lines& record : checked->lines) {
      EXPECT_EQ(checked_lines[record.page] & record.newest, 0u);
      checked_lines[record.page] |= record.newest;
    }
    EXPECT_EQ(lines, checked_lines);
    std::map<uint64_t, BitLine> zeros;
    for (const auto& [window, pages] : checked->zeros) zeros[window] = bits_of(pages);
    EXPECT_TRUE(std::ranges::equal(scanned->zeros, zeros));
  }
};

TEST_F(CraftedLogTest, APadEndsWhereTheRingEnds) {
  for (const uint64_t length :
       {uint64_t{0}, uint64_t{8}, uint64_t{64}, uint64_t{65}, kRing - 64, kRing - 60, kRing - 16,
        kRing - 8, kRing - 1, kRing + 64, uint64_t{0xffffffff}}) {
    SCOPED_TRACE(length);
    fresh(0);
    put_pad(0, length);
    expect_records(0);
  }
  fresh(0);
  put_pad(0, kRing);
  expect_records(1);
}

TEST_F(CraftedLogTest, APadOfLengthZeroBehindATransaction) {
  const uint64_t commit = put_lines(0);
  const uint64_t end = put_commit(commit, 0, 1);
  put_pad(end, 0);
  expect_records(2);
}

TEST_F(CraftedLogTest, ATransactionThatWrapsWithAPad) {
  const uint64_t tail = 3 * kRing - kLineSize;
  fresh(tail);
  const uint64_t lines = put_pad(tail, kLineSize);
  const uint64_t commit = put_lines(lines);
  put_commit(commit, tail, 1);
  expect_records(3);
}

TEST_F(CraftedLogTest, ARecordThatCrossesTheEndOfTheRing) {
  const uint64_t tail = kRing - kLineSize;
  fresh(tail);
  const uint64_t commit = put_lines(tail);
  test::patch_file(path_, sb_.log_offset, root_line_);  // as if its payload wrapped
  put_commit(commit, tail, 1);
  expect_records(0);
}

TEST_F(CraftedLogTest, ACommitCountsItsRecords) {
  for (const uint64_t count : {uint64_t{0}, uint64_t{2}, ~uint64_t{0}}) {
    SCOPED_TRACE(count);
    fresh(0);
    const uint64_t commit = put_lines(0);
    const uint64_t end = put_commit(commit, 0, count);
    expect_records(1);
    fresh(0);
    put_lines(0);
    put_commit(commit, 0, count);
    // A transaction begins only when the one in front of it is durable.
    put_commit(put_lines(end), end, 1);
    expect_corrupt();
  }
}

TEST_F(CraftedLogTest, RecordsInFrontOfTheirTransactionAreSkipped) {
  const uint64_t second = put_lines(0, kImageEnd);  // begun and not committed
  const uint64_t commit = put_lines(second);
  put_commit(commit, second, 1);
  expect_records(3);
}

TEST_F(CraftedLogTest, TargetsOutsideTheImageOrInTheLog) {
  for (const uint64_t target :
       {uint64_t{0}, format::kSuperblockOffset[1], format::kRootOffset - kPageSize,
        uint64_t{sb_.log_offset}, sb_.log_offset + sb_.log_size - kPageSize, kImageEnd,
        ~uint64_t{0} - kPageSize + 1}) {
    SCOPED_TRACE(target);
    fresh(0);
    const uint64_t commit = put_lines(0, target);
    expect_records(1);
    fresh(0);
    put_lines(0, target);
    put_commit(commit, 0, 1);
    expect_corrupt();
  }
}

// Replaying it would break the zero rule: the next owner of the page would see it.
TEST_F(CraftedLogTest, DataForAPageThatNothingOwns) {
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 3, test::pattern_page(3));
    ASSERT_OK(image->close());
  }
  test::forge_superblocks(path_, [&](format::Superblock& sb) {
    sb.state = format::kStateDirty;
    sb_ = sb;
  });
  constexpr uint64_t kFirstWindow = kSegmentSize;
  for (const uint64_t page : {uint64_t{3}, uint64_t{4}}) {
    const uint64_t commit = put_lines(sb_.log_tail, kFirstWindow + page * kPageSize);
    put_commit(commit, sb_.log_tail, 1);
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->log_records, 2u);
    EXPECT_EQ(report->corruptions, page == 3 ? 0u : 1u);
  }
}

// Zeros and lines, each over the other, of pages that the image owns; the readers see the same.
TEST_F(CraftedLogTest, ZerosOverLinesAndLinesOverZeros) {
  {
    const auto image = test::open_image(path_);
    for (const uint64_t page : {0u, 1u, 2u, 600u}) {
      test::write_page(*image, page, test::pattern_page(page));
    }
    ASSERT_OK(image->close());
  }
  test::forge_superblocks(path_, [&](format::Superblock& sb) {
    sb.state = format::kStateDirty;
    sb_ = sb;
  });
  constexpr uint64_t kWindow = kSegmentSize;
  const std::string line(kLineSize, 'x');
  const auto put_line = [&](uint64_t lsn, uint64_t page, uint64_t mask) {
    return put(RecordType::kLines, lsn, kWindow + page * kPageSize, mask, {}, line);
  };
  const uint64_t first = sb_.log_tail;
  uint64_t lsn = put_line(first, 0, 0b1);
  lsn = put_zeros(lsn, kWindow, 2);
  lsn = put_commit(lsn, first, 2);
  const uint64_t second = lsn;
  lsn = put_line(lsn, 1, 0b10);
  lsn = put_line(lsn, 2, 0b100);
  lsn = put_commit(lsn, second, 2);
  const uint64_t unfinished = put_zeros(lsn, kWindow + kWindowSize, 512);
  ASSERT_GT(unfinished, lsn);
  expect_records(7);
  const auto image = test::open_image(path_, Access::kReadOnly);
  test::Page one(kPageSize);
  std::fill_n(one.begin() + kLineSize, kLineSize, std::byte{'x'});
  test::Page two = test::pattern_page(2);
  std::fill_n(two.begin() + 2 * kLineSize, kLineSize, std::byte{'x'});
  EXPECT_EQ(test::read_page(*image, 0), test::Page(kPageSize));
  EXPECT_EQ(test::read_page(*image, 1), one);
  EXPECT_EQ(test::read_page(*image, 2), two);
  EXPECT_EQ(test::read_page(*image, 600), test::pattern_page(600));
}

TEST_F(CraftedLogTest, ZerosOutsideTheImage) {
  for (const uint64_t window : {kImageEnd, ~uint64_t{0} / kWindowSize * kWindowSize}) {
    SCOPED_TRACE(window);
    fresh(0);
    const uint64_t commit = put_zeros(0, window, 1);
    put_commit(commit, 0, 1);
    expect_corrupt();
  }
}

TEST_F(CraftedLogTest, RecordsThatAreNotRecords) {
  const std::vector<std::function<void()>> forgeries = {
      [this] { put_lines(0, format::kRootOffset + kLineSize); },
      [this] { put_lines(0, format::kRootOffset + 1); },
      [this] { put(RecordType::kLines, 0, format::kRootOffset, 0, {}); },
      [this] { put(RecordType::kLines, 0, format::kRootOffset, 3, {}, root_line_); },
      [this] { put(RecordType::kLines, 0, format::kRootOffset, 1, 0, root_line_); },
      [this] { put(RecordType::kLines, 0, format::kRootOffset, 1, 64, root_line_); },
      [this] { put(RecordType::kLines, 0, format::kRootOffset, 1, 0xffffffc0, root_line_); },
      [this] { put(RecordType::kCommit, 0, 0, 0, 0); },
      [this] { put(RecordType::kCommit, 0, 0, 0, 128); },
      [this] { put(RecordType::kZeros, 0, kSegmentSize, 0, {}); },
      [this] { put(RecordType::kZeros, 0, kSegmentSize, 1, {}, root_line_); },
      [this] { put(RecordType::kZeros, 0, kSegmentSize + kPageSize, 0, {}, root_line_); },
      [this] { put(RecordType::kZeros, 0, 2 * kMiB, 0, {}, root_line_); },
      [this] { put(static_cast<RecordType>(6), 0, kSegmentSize, 0, {}, root_line_); },
      [this] { put(static_cast<RecordType>(0), 0, 0, 0, {}); },
      [this] { put(static_cast<RecordType>(4), 0, 0, 0, {}); }};
  for (const auto& forgery : forgeries) {
    SCOPED_TRACE(&forgery - forgeries.data());
    fresh(0);
    forgery();
    expect_records(0);
  }
}

TEST_F(CraftedLogTest, ATailWhoseSequenceNumbersWouldOverflow) {
  for (const uint64_t tail : {~uint64_t{0} - 63, uint64_t{1} << 63}) {
    fresh(tail);
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_GT(report->corruptions, 0u);
    OpenOptions options;
    options.replay_in_memory = true;
    EXPECT_EQ(Image::open(path_, options).error().code, Code::kCorrupt);
  }
}

}  // namespace
}  // namespace pcow
