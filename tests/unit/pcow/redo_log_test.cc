// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/redo_log.h"

#include <gtest/gtest.h>

#include <cstring>

#include "pcow/engine/log_scan.h"
#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

constexpr uint64_t kRingOffset = 4 * kMiB;
constexpr uint64_t kRingSize = 4 * kMiB;

class RedoLogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto file = File::open(path_, File::Mode::kCreate);
    ASSERT_OK(file);
    ASSERT_OK(file->extend(kSegmentSize));
    auto media = Media::open(ImageFile(std::move(*file)), Access::kReadWrite);
    ASSERT_OK(media);
    media_ = std::move(*media);
  }

  // One transaction that sets line `line` of page `page` to `value`.
  void append(RedoLog& log, uint64_t page, uint64_t line, uint8_t value) {
    format::Block content;
    std::memset(content.bytes.data() + line * kLineSize, value, kLineSize);
    const RedoLog::Change change{page * kPageSize, uint64_t{1} << line, &content};
    ASSERT_OK(log.append(std::span(&change, 1), Epoch(1)));
  }

  std::byte line_value(const LogContent& content, uint64_t page, uint64_t line) {
    format::Block block;
    EXPECT_TRUE(content.lay_over(*media_, page * kPageSize, block.bytes).has_value());
    return block.bytes[line * kLineSize];
  }

  uint64_t mask_of(const LogContent& content, uint64_t page) {
    format::Block block;
    return content.lay_over(*media_, page * kPageSize, block.bytes).value();
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("log");
  std::unique_ptr<Media> media_;
  LogPosition position_{kRingOffset, kRingSize, 1, 0};
};

TEST_F(RedoLogTest, LaterTransactionsWin) {
  RedoLog log(*media_, position_);
  append(log, 1, 0, 0x11);
  append(log, 1, 63, 0x22);
  append(log, 1, 0, 0x33);
  const auto content = scan_log(*media_, position_);
  ASSERT_OK(content);
  EXPECT_EQ(content->transactions, 3u);
  EXPECT_EQ(mask_of(*content, 1), uint64_t{1} << 63 | 1);
  EXPECT_EQ(line_value(*content, 1, 0), std::byte{0x33});
  EXPECT_EQ(line_value(*content, 1, 63), std::byte{0x22});
}

TEST_F(RedoLogTest, ATornLastTransactionNeverHappened) {
  RedoLog log(*media_, position_);
  append(log, 1, 0, 0x11);
  const uint64_t second = log.used_bytes();
  append(log, 2, 0, 0x22);
  // The commit record landed, a line in front of it did not.
  test::patch_file(path_, kRingOffset + second + kLineSize, std::string(8, '\0'));
  const auto content = scan_log(*media_, position_);
  ASSERT_OK(content);
  EXPECT_EQ(content->transactions, 1u);
  EXPECT_FALSE(content->pages.contains(2 * kPageSize));
  EXPECT_EQ(content->end, second);
}

TEST_F(RedoLogTest, DamageInFrontOfALaterTransactionIsCorruption) {
  RedoLog log(*media_, position_);
  append(log, 1, 0, 0x11);
  const uint64_t second = log.used_bytes();
  append(log, 2, 0, 0x22);
  append(log, 3, 0, 0x33);
  test::patch_file(path_, kRingOffset + second + 100, "X");
  const auto content = scan_log(*media_, position_);
  ASSERT_FALSE(content.has_value());
  EXPECT_EQ(content.error().code, Code::kCorrupt);
  EXPECT_NE(content.error().message.find(std::to_string(kRingOffset + second)), std::string::npos);
}

TEST_F(RedoLogTest, RecordsOfAnotherGenerationAreNotPartOfTheLog) {
  RedoLog log(*media_, position_);
  append(log, 1, 0, 0x11);
  LogPosition next = position_;
  next.generation = 2;
  const auto content = scan_log(*media_, next);
  ASSERT_OK(content);
  EXPECT_EQ(content->transactions, 0u);
}

// An aborted transaction leaves records without a commit; the next one must not adopt them.
TEST_F(RedoLogTest, RecordsWithoutTheirCommitAreSkipped) {
  RedoLog log(*media_, position_);
  append(log, 1, 0, 0x11);
  const uint64_t second = log.used_bytes();
  append(log, 2, 0, 0x22);
  const uint64_t third = log.used_bytes();
  // Turns the second commit into a lines record that is valid: a transaction cut short.
  format::LogRecord record;
  const std::string bytes =
      test::file_bytes(path_, kRingOffset + third - kLineSize, sizeof(record));
  std::memcpy(&record, bytes.data(), sizeof(record));
  ASSERT_EQ(record.type, static_cast<uint16_t>(format::RecordType::kCommit));
  ASSERT_EQ(record.target, second);
  append(log, 3, 0, 0x33);
  test::patch_file(path_, kRingOffset + third - kLineSize, std::string(kLineSize, '\0'));
  const auto content = scan_log(*media_, position_);
  // The third began behind the hole: damage, not an abort.
  EXPECT_FALSE(content.has_value());
}

TEST_F(RedoLogTest, WrapsWithAPad) {
  RedoLog log(*media_, position_);
  format::Block full;
  std::memset(full.bytes.data(), 0x5a, full.bytes.size());
  uint64_t appended = 0;
  while (log.free_bytes() > 3 * (kPageSize + 256)) {
    const RedoLog::Change change{8 * kPageSize, ~uint64_t{0}, &full};
    ASSERT_OK(log.append(std::span(&change, 1), Epoch(1)));
    ++appended;
  }
  // Start again in the middle of the ring, so that the next records cross its end.
  LogPosition middle = position_;
  middle.tail = kRingSize + kRingSize - 2 * kPageSize;
  middle.generation = 7;
  log.reset(middle);
  for (uint64_t page = 1; page <= 4; ++page) {
    const RedoLog::Change change{page * kPageSize, ~uint64_t{0}, &full};
    ASSERT_OK(log.append(std::span(&change, 1), Epoch(1)));
  }
  const auto content = scan_log(*media_, middle);
  ASSERT_OK(content);
  EXPECT_EQ(content->transactions, 4u);
  EXPECT_EQ(content->pages.size(), 4u);
  format::Block found;
  ASSERT_OK(content->lay_over(*media_, 4 * kPageSize, found.bytes));
  EXPECT_EQ(found, full);
}

TEST_F(RedoLogTest, RefusesWhatDoesNotFit) {
  RedoLog log(*media_, position_);
  format::Block full;
  std::memset(full.bytes.data(), 1, full.bytes.size());
  std::vector<RedoLog::Change> changes(kRingSize / kPageSize,
                                       RedoLog::Change{kPageSize, ~uint64_t{0}, &full});
  EXPECT_GT(RedoLog::size_bound(changes), log.free_bytes());
  EXPECT_FALSE(log.append(changes, Epoch(1)).has_value());
  EXPECT_EQ(log.used_bytes(), 0u);
}

}  // namespace
}  // namespace pcow
