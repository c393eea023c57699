// SPDX-License-Identifier: BSD-3-Clause
//
// A log in segments of its own (FORMAT.md, section 10), as the checker sees it: images are crafted.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/support/image_fixture.h"
#include "tests/unit/pcow/log_record_bytes.h"

namespace pcow {
namespace {

using format::Block;
using format::RecordType;
using format::SegmentKind;

constexpr uint64_t kRun = 2;  // segments 2 to 5; 0 is the first, 1 has data
constexpr uint64_t kRunLength = 4;
constexpr uint64_t kRunOffset = kRun * kSegmentSize;
constexpr uint64_t kBig = kSegmentSize + 512 * kMiB;

class LogPlaceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    test::create_image(path_, 2 * kGiB, format::kMinLogSize);
    {
      const auto image = test::open_image(path_);
      test::write_page(*image, 3, test::pattern_page(3));
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_);
    std::filesystem::resize_file(path_, (kRun + kRunLength) * kSegmentSize);
    for (uint64_t i = 0; i < kRunLength; ++i) set_kind(kRun + i, SegmentKind::kLog);
    forge_root([](format::RootBlock& root) { root.segment_count = kRun + kRunLength; });
  }

  void forge_root(const std::function<void(format::RootBlock&)>& change) {
    test::forge_block(path_, format::kRootOffset,
                      [&](Block& block) { change(block.as<format::RootBlock>()); });
  }
  uint64_t segment_table() const {
    return test::read_block(path_, format::kRootOffset).as<format::RootBlock>().segment_table[0];
  }
  void forge_entry(uint64_t index, const std::function<void(format::SegmentEntry&)>& change) {
    test::forge_block(path_, segment_table(), [&](Block& block) {
      change(block.as<format::SegmentTableBlock>().entries[index]);
    });
  }
  void set_kind(uint64_t index, SegmentKind kind) {
    forge_entry(index, [kind](auto& entry) { entry.kind = static_cast<uint8_t>(kind); });
  }
  void punch(uint64_t offset, uint64_t length) const {
    const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                        static_cast<off_t>(length)),
              0);
    close(fd);
  }
  // The log, empty, as if it had moved there.
  void move_log(uint64_t offset, uint64_t size, uint64_t tail = 0, uint32_t state = 0) {
    test::forge_superblocks(path_, [&](format::Superblock& sb) {
      sb.log_offset = offset;
      sb.log_size = size;
      sb.log_tail = tail;
      sb.log_generation = sb.log_generation + 1;
      sb.state = state;
      sb_ = sb;
    });
    if (offset >= kSegmentSize) punch(format::kLogOffset, kSegmentSize - format::kLogOffset);
  }
  // Returns the next LSN.
  uint64_t put(RecordType type, uint64_t lsn, uint64_t target, uint64_t mask,
               const std::string& payload = "", std::optional<uint32_t> length = {}) {
    const std::string bytes =
        log_record({type, sb_.log_generation, lsn, target, mask}, payload, length);
    test::patch_file(path_, sb_.log_offset + lsn % sb_.log_size, bytes);
    return lsn + length.value_or(static_cast<uint32_t>(bytes.size()));
  }
  // A transaction that stores a page.
  uint64_t put_page(uint64_t lsn, uint64_t target, const std::string& content) {
    return put(RecordType::kCommit, put(RecordType::kLines, lsn, target, ~uint64_t{0}, content),
               lsn, 1);
  }
  std::string page_at(uint64_t offset) const { return test::file_bytes(path_, offset, kPageSize); }

  CheckReport check() const {
    auto report = check_image(path_, false, {});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report ? *std::move(report) : CheckReport{};
  }
  // One message, of corruption, which has this in it.
  void expect_corrupt(const std::string& part) const {
    const CheckReport report = check();
    EXPECT_EQ(report.corruptions, 1u);
    ASSERT_FALSE(report.messages.empty());
    EXPECT_NE(report.messages.front().find(part), std::string::npos) << report.messages.front();
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  format::Superblock sb_{};
};

TEST_F(LogPlaceTest, IsInSegmentsOfItsOwn) {
  for (const uint64_t size : {format::kMinLogSize, kSegmentSize, kBig, 4 * kGiB - kWindowSize}) {
    for (const uint32_t state : {uint32_t{0}, format::kStateDirty}) {
      SCOPED_TRACE(size);
      move_log(kRunOffset, size, 0, state);
      test::expect_clean_check(path_);
    }
  }
  move_log(kRunOffset + kSegmentSize, kBig);  // not at the start of the run
  test::expect_clean_check(path_);
}

TEST_F(LogPlaceTest, MayBeLargeInTheFirstSegment) {
  move_log(128 * kMiB, 770 * kMiB);
  EXPECT_EQ(check().corruptions, 0u);
}

TEST_F(LogPlaceTest, IsNotWhereOtherThingsAre) {
  move_log(kSegmentSize, format::kMinLogSize);
  expect_corrupt("which is not for a log");  // of data
  move_log(kRunOffset, kBig);
  for (const SegmentKind kind : {SegmentKind::kFree, SegmentKind::kData}) {
    set_kind(kRun + 1, kind);
    EXPECT_NE(check().corruptions, 0u);
  }
  set_kind(kRun + 1, SegmentKind::kLog);
  set_kind(kRun + 2, SegmentKind::kFree);  // behind its end
  test::expect_clean_check(path_);
}

TEST_F(LogPlaceTest, IsInTheImage) {
  move_log(kRunOffset + 3 * kSegmentSize, kBig);
  expect_corrupt("behind the last segment");
  move_log(kRunOffset + kRunLength * kSegmentSize, format::kMinLogSize);
  expect_corrupt("behind the last segment");
}

TEST_F(LogPlaceTest, BeginsAtASegment) {
  for (const uint64_t offset :
       {kRunOffset + kWindowSize, kRunOffset - kWindowSize, kSegmentSize - kWindowSize}) {
    move_log(offset, format::kMinLogSize);
    expect_corrupt("impossible values");
  }
}

TEST_F(LogPlaceTest, SegmentsOfALogHaveNothingElse) {
  const std::vector<std::function<void(format::SegmentEntry&)>> changes = {
      [](auto& entry) { entry.owner = 2 * kMiB; }, [](auto& entry) { entry.epoch = 1; },
      [](auto& entry) { entry.windows[7] = 1; }};
  for (const auto& change : changes) {
    forge_entry(kRun, change);
    expect_corrupt("impossible entry");
    forge_entry(kRun, [](auto& entry) {
      entry = {};
      entry.kind = static_cast<uint8_t>(SegmentKind::kLog);
    });
  }
  test::expect_clean_check(path_);
}

TEST_F(LogPlaceTest, MetadataIsNotThere) {
  forge_root([](format::RootBlock& root) { root.layer_directory[1] = kRunOffset; });
  expect_corrupt("a slot of metadata where none can be");
}

// --- what is left -------------------------------------------------------------------------------

TEST_F(LogPlaceTest, SegmentsWithoutALogHoldNothing) {
  test::patch_file(path_, kRunOffset + kWindowSize, "an old record");
  test::patch_file(path_, kRunOffset + kRunLength * kSegmentSize - kPageSize,
                   std::string(kPageSize, '\0'));
  const CheckReport report = check();
  EXPECT_EQ(report.corruptions, 0u);
  EXPECT_EQ(report.leaked_bytes, 2 * kPageSize);
  const auto repaired = repair_image(path_, Repair::kLeaks, {});
  ASSERT_OK(repaired);
  EXPECT_TRUE(repaired->refused.empty());
  test::expect_clean_check(path_);
  EXPECT_EQ(page_at(kRunOffset + kWindowSize), std::string(kPageSize, '\0'));
  const auto table = test::read_block(path_, segment_table());
  EXPECT_EQ(table.as<format::SegmentTableBlock>().entries[kRun].kind,
            static_cast<uint8_t>(SegmentKind::kLog));
}

TEST_F(LogPlaceTest, NothingIsInItNorBehindItsEndNorWhereItWas) {
  move_log(kRunOffset, kBig);
  const auto expect_leaks = [this](uint64_t bytes) {
    const CheckReport report = check();
    EXPECT_EQ(report.corruptions, 0u);
    EXPECT_EQ(report.leaked_bytes, bytes);
  };
  uint64_t leaked = 0;
  for (const uint64_t place :
       {kRunOffset, kRunOffset + kBig - kPageSize, format::kLogOffset, kSegmentSize - kPageSize,
        kRunOffset + kBig, kRunOffset + kRunLength * kSegmentSize - kPageSize}) {
    test::patch_file(path_, place, "x");
    expect_leaks(leaked += kPageSize);
  }
  // Whoever writes next gives it back.
  test::forge_superblocks(path_, [](format::Superblock& sb) { sb.state = format::kStateDirty; });
  expect_leaks(0);
}

// --- what it says -------------------------------------------------------------------------------

// Across the end of the ring, over a root block that is wrong without it.
TEST_F(LogPlaceTest, IsLaidOver) {
  const std::string root = page_at(format::kRootOffset);
  const uint64_t tail = 3 * kBig - 2 * kLineSize;
  move_log(kRunOffset, kBig, tail, format::kStateDirty);
  forge_root([](format::RootBlock& block) { block.allocated_pages = 77; });
  EXPECT_EQ(check().corruptions, 1u);
  const uint64_t lsn = put(RecordType::kPad, tail, 0, 0, "", 2 * kLineSize);
  put_page(lsn, format::kRootOffset, root);
  test::expect_clean_check(path_);
  EXPECT_EQ(check().log_records, 3u);
}

TEST_F(LogPlaceTest, DoesNotStoreToItself) {
  for (const uint64_t target : {uint64_t{0}, kSegmentSize, kBig - kPageSize}) {
    move_log(kRunOffset, kBig, 0, format::kStateDirty);
    put_page(0, kRunOffset + target, std::string(kPageSize, 'x'));
    expect_corrupt("within the log");
    put(RecordType::kCommit,
        put(RecordType::kZeros, 0, kRunOffset + target / kWindowSize * kWindowSize, 0,
            std::string(kLineSize, '\x1')),
        0, 1);
    expect_corrupt("within the log");
  }
}

// A log is found before it is replayed, and stays when it has been.
TEST_F(LogPlaceTest, ItsSegmentsAreItsOwnWithAndWithoutIt) {
  move_log(kRunOffset, kBig, 0, format::kStateDirty);
  const std::string with = page_at(segment_table());
  set_kind(kRun + 1, SegmentKind::kFree);
  const std::string without = page_at(segment_table());
  put_page(0, segment_table(), with);
  expect_corrupt("which is not for a log");
  test::patch_file(path_, segment_table(), with);
  test::expect_clean_check(path_);
  put_page(0, segment_table(), without);
  expect_corrupt("which is not for a log");
  // The same of how many segments there are.
  const std::string root = page_at(format::kRootOffset);
  forge_root([](format::RootBlock& block) { block.segment_count = kRun + 1; });
  put_page(0, format::kRootOffset, root);
  expect_corrupt("which is not for a log");
}

TEST_F(LogPlaceTest, DamageInFrontOfATransactionIsFoundFarOff) {
  const std::string root = page_at(format::kRootOffset);
  for (const uint64_t tail : {uint64_t{0}, 2 * kBig - kMiB}) {  // the search meets the ring's end
    for (const uint64_t distance : {uint64_t{0}, 5 * kWindowSize + kLineSize, kBig - 2 * kMiB}) {
      SCOPED_TRACE(distance);
      move_log(kRunOffset, kBig, tail, format::kStateDirty);
      const uint64_t lsn = put_page(tail, format::kRootOffset, root);
      put_page(lsn + kLineSize + distance, format::kRootOffset, root);
      expect_corrupt("damage in front");
      // One that began in front proves nothing.
      move_log(kRunOffset, kBig, tail, format::kStateDirty);
      put(RecordType::kCommit, tail + kLineSize + distance, tail, 1);
      test::expect_clean_check(path_);
    }
  }
}

// --- memory -------------------------------------------------------------------------------------

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

uint64_t address_space() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<uint64_t>(getpagesize());
}

// Checked by a process that may take far less memory than the log has content.
TEST_F(LogPlaceTest, TakesNoMemoryForContent) {
  constexpr uint64_t kFull = 256 * kMiB;
  constexpr uint64_t kMemory = 32 * kMiB;
  move_log(kRunOffset, kFull, 0, format::kStateDirty);
  const std::string root = page_at(format::kRootOffset);
  constexpr uint64_t kRecord = sizeof(format::LogRecord) + kPageSize;
  constexpr uint64_t kCount = kFull / kRecord - 1;
  std::ofstream file(path_, std::ios::in | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(kRunOffset));
  for (uint64_t i = 0; i < kCount; ++i) {
    file << log_record(
        {RecordType::kLines, sb_.log_generation, i * kRecord, format::kRootOffset, ~uint64_t{0}},
        root);
  }
  file << log_record({RecordType::kCommit, sb_.log_generation, kCount * kRecord, 0, kCount});
  ASSERT_TRUE(file.flush());
  const pid_t child = fork();
  if (child == 0) {
    const rlimit limit{address_space() + kMemory, RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(2);
    const auto report = check_image(path_, false, {});
    _exit(report && report->corruptions == 0 && report->log_records == kCount + 1 ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

#endif

}  // namespace
}  // namespace pcow
