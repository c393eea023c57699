// SPDX-License-Identifier: BSD-3-Clause
//
// Space ahead of need: who finds it, that nobody else's is touched, and that it is given back.
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "tests/support/image_fixture.h"
#include "tests/support/syscall_faults.h"
#include "tests/support/test_seed.h"

namespace pcow {
namespace {

constexpr uint64_t kAhead = 16 * kMiB;
constexpr uint64_t kSize = 2 * kGiB;

bool on_ext4(const std::string& directory) {
  struct statfs fs = {};
  return statfs(directory.c_str(), &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC;
}

uint64_t disk_bytes(const std::string& path) {
  struct stat st = {};
  EXPECT_EQ(stat(path.c_str(), &st), 0);
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

std::unique_ptr<Image> open_ahead(const std::string& path, uint64_t bytes = kAhead) {
  OpenOptions options;
  options.access = Access::kReadWrite;
  options.reserve_ahead = bytes;
  auto image = Image::open(path, options);
  EXPECT_TRUE(image.has_value()) << image.error().message;
  return image ? *std::move(image) : nullptr;
}

void wait_until_idle(const Image& image) {
  for (int i = 0; i < 20000 && image.info().ahead.busy; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_FALSE(image.info().ahead.busy);
}

// Every `step`th page of a chunk from `first` on, `count` of them.
void write_scattered(Image& image, uint64_t chunk, uint64_t first, uint64_t step, uint64_t count,
                     bool log = false) {
  test::PageBatch batch;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t page = chunk * kPagesPerChunk + first + i * step;
    batch.add(page, test::pattern_page(page));
  }
  if (log) {
    ASSERT_OK(image.log_pages(batch.writes()));
  } else {
    ASSERT_OK(image.write_pages(batch.writes()));
  }
}

class ReserveAheadTest : public ::testing::Test {
 protected:
  ReserveAheadTest() {
    // Where other tests are told to go, they are run on that medium's account.
    if (std::getenv("PCOW_TEST_DIR") != nullptr || !on_ext4("/var/tmp")) return;
    directory_.emplace("/var/tmp");
    path_ = directory_->file("a.pcow");
    test::create_image(path_, kSize, 4 * kMiB);
  }
  void SetUp() override {
    if (!directory_) GTEST_SKIP() << "needs /var/tmp on ext4, and no PCOW_TEST_DIR";
  }
  // An image with space ahead in the window of chunk 0, of which it owns 32 pages.
  std::unique_ptr<Image> prepared() {
    auto image = open_ahead(path_);
    write_scattered(*image, 0, 0, 16, 32);
    EXPECT_TRUE(image->commit().has_value());
    wait_until_idle(*image);
    EXPECT_EQ(image->info().ahead.reserved_bytes, (kPagesPerChunk - 32) * kPageSize);
    return image;
  }

  std::optional<test::TempDir> directory_;
  std::string path_;
};

TEST(ReserveAheadTmpfs, IsNotDone) {
  const test::TempDir dir;
  if (on_ext4(dir.path())) GTEST_SKIP() << "the tests' directory is not on tmpfs";
  const std::string path = dir.file("a.pcow");
  test::create_image(path, kSize, 4 * kMiB);
  const auto image = open_ahead(path);
  write_scattered(*image, 0, 0, 16, 32);
  ASSERT_OK(image->commit());
  const ImageInfo info = image->info();
  EXPECT_FALSE(info.ahead.busy);
  EXPECT_EQ(info.ahead.reserved_bytes, 0u);
  ASSERT_OK(image->close());
}

// After the first turn nothing that is written into a window, or into those that follow, waits.
TEST_F(ReserveAheadTest, WritersFindItInTheSteadyState) {
  for (const bool log : {false, true}) {
    SCOPED_TRACE(log ? "through the log" : "in place");
    test::create_image(path_ + (log ? "l" : "p"), kSize);
    const auto image = open_ahead(path_ + (log ? "l" : "p"));
    uint64_t missed = 0;
    for (uint64_t round = 0; round < 16; ++round) {
      write_scattered(*image, 5, round, 16, 32, log);
      ASSERT_OK(image->commit());
      if (round == 0) missed = image->info().ahead.missed_pages;
      wait_until_idle(*image);
    }
    EXPECT_EQ(missed, 32u);
    EXPECT_EQ(image->info().ahead.missed_pages, missed);
    EXPECT_EQ(image->info().ahead.used_pages, 15 * 32u);
    for (uint64_t chunk = 6; chunk < 12; ++chunk) {
      write_scattered(*image, chunk, 0, 1, kPagesPerChunk, log);
      ASSERT_OK(image->commit());
      wait_until_idle(*image);
    }
    EXPECT_EQ(image->info().ahead.missed_pages, missed);
    ASSERT_OK(image->checkpoint(UINT64_MAX));
    for (uint64_t page = 5 * kPagesPerChunk; page < 12 * kPagesPerChunk; ++page) {
      ASSERT_EQ(test::read_page(*image, page), test::pattern_page(page));
    }
    ASSERT_OK(image->close());
    test::expect_clean_check(path_ + (log ? "l" : "p"));
  }
}

TEST_F(ReserveAheadTest, CloseGivesBackWhatNobodyUsed) {
  auto image = prepared();
  const uint64_t before = disk_bytes(path_);
  EXPECT_GE(before, kPagesPerChunk * kPageSize);
  ASSERT_OK(image->close());
  EXPECT_LE(disk_bytes(path_) + (kPagesPerChunk - 32) * kPageSize, before);
  test::expect_clean_check(path_);
}

TEST_F(ReserveAheadTest, ACrashLeavesALeakThatIsReclaimed) {
  auto image = prepared();
  image.reset();  // as a crash
  const auto report = check_image(path_, false, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->corruptions, 0u);
  EXPECT_EQ(report->leaked_bytes, (kPagesPerChunk - 32) * kPageSize);
  image = test::open_image(path_);
  EXPECT_EQ(image->reclaim_unowned().value(), (kPagesPerChunk - 32) * kPageSize);
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    const test::Page expected = page % 16 == 0 ? test::pattern_page(page) : test::Page(kPageSize);
    ASSERT_EQ(test::read_page(*image, page), expected);
  }
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

TEST_F(ReserveAheadTest, NeverTakesMoreThanItMay) {
  const auto image = open_ahead(path_, kMiB);
  for (uint64_t chunk = 0; chunk < 8; ++chunk) {
    write_scattered(*image, chunk, 0, 16, 32);
    ASSERT_OK(image->commit());
    wait_until_idle(*image);
    EXPECT_LE(image->info().ahead.reserved_bytes, kMiB);
  }
  EXPECT_EQ(image->info().ahead.reserved_bytes, kMiB);
  // Windows that nobody writes to any more make room.
  for (uint64_t turn = 0; turn < 80; ++turn) {
    write_scattered(*image, 100, 0, 16, 20);
    wait_until_idle(*image);
    ASSERT_LE(image->info().ahead.reserved_bytes, kMiB);
  }
  write_scattered(*image, 100, 1, 16, 20);
  EXPECT_GE(image->info().ahead.used_pages, 16u);  // 1 MiB reaches so far
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

// A few pages here and there let nothing expect more of them.
TEST_F(ReserveAheadTest, LeavesSparseWindowsAlone) {
  const auto image = open_ahead(path_);
  for (uint64_t chunk = 0; chunk < 100; ++chunk) write_scattered(*image, chunk, 7, 60, 8);
  ASSERT_OK(image->commit());
  EXPECT_FALSE(image->info().ahead.busy);
  EXPECT_EQ(image->info().ahead.reserved_bytes, 0u);
}

TEST_F(ReserveAheadTest, SnapshotsKeepNoneOfIt) {
  auto image = prepared();
  ASSERT_OK(image->create_snapshot("s"));
  EXPECT_EQ(image->info().ahead.reserved_bytes, 0u);
  write_scattered(*image, 0, 1, 16, 32);
  ASSERT_OK(image->commit());
  wait_until_idle(*image);
  EXPECT_EQ(image->info().ahead.reserved_bytes, (kPagesPerChunk - 32) * kPageSize);
  ASSERT_OK(image->apply_snapshot("s"));
  ASSERT_OK(image->delete_snapshot("s"));
  ASSERT_OK(image->resize(kGiB, true));
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

TEST_F(ReserveAheadTest, AFullMediumStopsTheThreadAndNobodyElse) {
  for (const int sys_errno : {ENOSPC, EIO}) {
    for (const uint64_t nth : {1u, 3u, 9u}) {
      std::filesystem::remove(path_);
      test::create_image(path_, kSize, 4 * kMiB);
      const auto image = open_ahead(path_);
      write_scattered(*image, 0, 0, 16, 16);
      ASSERT_OK(image->commit());
      {
        // Of the thread alone: it is the only one that writes now.
        const test::FaultPlan plan(test::Call::kWrite, nth, sys_errno, true);
        wait_until_idle(*image);
      }
      write_scattered(*image, 0, 1, 16, 32);
      ASSERT_OK(image->commit());
      EXPECT_FALSE(image->info().ahead.busy);
      for (uint64_t i = 0; i < 32; ++i) {
        EXPECT_EQ(test::read_page(*image, 1 + i * 16), test::pattern_page(1 + i * 16));
      }
      ASSERT_OK(image->close());
      test::expect_clean_check(path_);
    }
  }
}

// What the writer needs comes first: for every reservation of a write and a commit.
TEST_F(ReserveAheadTest, AFullMediumGetsItBack) {
  for (const bool log : {false, true}) {
    for (uint64_t nth = 1;; ++nth) {
      std::filesystem::remove(path_);
      test::create_image(path_, kSize, 4 * kMiB);
      auto image = prepared();
      bool hit = false;
      {
        const test::FaultPlan plan(test::Call::kReserve, nth, ENOSPC);
        write_scattered(*image, 300, 0, 3, 4, log);
        if (HasFatalFailure()) return;
        ASSERT_OK(image->commit());
        hit = plan.hit();
      }
      if (!hit) {
        EXPECT_GT(nth, 3u);
        break;
      }
      EXPECT_EQ(test::read_page(*image, 300 * kPagesPerChunk + 9),
                test::pattern_page(300 * kPagesPerChunk + 9));
      ASSERT_OK(image->close());
      test::expect_clean_check(path_, true);
    }
  }
}

// Writers and the thread in the same windows all the time: no page is ever lost.
TEST_F(ReserveAheadTest, RandomWritesKeepTheirContent) {
  constexpr uint64_t kChunks = 12;
  std::mt19937_64 random(test::test_seed());
  std::map<uint64_t, uint64_t> content;  // page → value, 0: zero
  uint64_t used = 0;
  auto image = open_ahead(path_, 4 * kMiB);
  for (int step = 0; step < 150 && !HasFatalFailure(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    std::map<uint64_t, uint64_t> changed;
    const uint64_t chunk = random() % kChunks;
    const uint64_t count = 1 + random() % 60;
    for (uint64_t i = 0; i < count; ++i) {
      changed[chunk * kPagesPerChunk + random() % kPagesPerChunk] = random() % 8;
    }
    test::PageBatch batch;
    for (const auto& [page, value] : changed) {
      batch.add(page, value == 0 ? test::Page(kPageSize) : test::pattern_page(value));
      content[page] = value;
    }
    if (step % 3 == 0) {
      ASSERT_OK(image->log_pages(batch.writes()));
      ASSERT_OK(image->commit());
      if (step % 2 == 0) ASSERT_OK(image->checkpoint(UINT64_MAX));
    } else {
      ASSERT_OK(image->write_pages(batch.writes()));
      if (step % 2 == 0) ASSERT_OK(image->commit());
    }
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 4));
    if (random() % 50 == 0) ASSERT_OK(image->create_snapshot("s" + std::to_string(step)));
    if (random() % 60 == 0) ASSERT_OK(image->resize(kSize + random() % 2 * kGiB, true));
    if (random() % 40 == 0) {
      used += image->info().ahead.used_pages;
      ASSERT_OK(image->commit());
      if (random() % 2 == 0) ASSERT_OK(image->close());
      image = nullptr;
      test::expect_clean_check(path_, true);
      image = open_ahead(path_, 4 * kMiB);
    }
  }
  used += image->info().ahead.used_pages;
  EXPECT_GT(used, 0u);
  for (const auto& [page, value] : content) {
    ASSERT_EQ(test::read_page(*image, page),
              value == 0 ? test::Page(kPageSize) : test::pattern_page(value))
        << "page " << page;
  }
  ASSERT_OK(image->reclaim_unowned());
  ASSERT_OK(image->close());
  test::expect_clean_check(path_);
}

}  // namespace
}  // namespace pcow
