// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary, as a hypervisor sees it.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <tiering/tiering.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <mutex>
#include <string>
#include <vector>

#include "tests/support/small_tmpfs.h"
#include "tests/unit/tiering/c_api_fixture.h"

namespace tiering::testing {
namespace {

TEST_F(CApiTest, DiscardsMemory) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  std::memset(base(), 'x', 3 * pcow::kChunkSize);
  ASSERT_EQ(tiering_region_commit(region_, false, nullptr, &error_), TIERING_OK);
  const uint64_t taken = status().disk_bytes;
  ASSERT_EQ(tiering_region_discard(region_, pcow::kChunkSize, pcow::kChunkSize, &error_),
            TIERING_OK)
      << error_.message;
  EXPECT_EQ(base()[pcow::kChunkSize - 1], 'x');
  EXPECT_EQ(base()[pcow::kChunkSize], '\0');
  EXPECT_EQ(base()[2 * pcow::kChunkSize - 1], '\0');
  EXPECT_EQ(base()[2 * pcow::kChunkSize], 'x');
  EXPECT_LE(status().disk_bytes, taken - pcow::kChunkSize + pcow::kMiB);
  EXPECT_EQ(tiering_region_discard(region_, 1, 4096, &error_), TIERING_E_INVALID);
  EXPECT_EQ(tiering_region_discard(region_, kSize, 4096, nullptr), TIERING_E_INVALID);
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_region_discard(region_, 0, 4096, &error_), TIERING_E_INVALID);
}

TEST_F(CApiTest, OpensCommitsAndShutsDown) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_region_size(region_), kSize);
  ASSERT_EQ(tiering_region_apply_attributes(region_, &error_), TIERING_OK) << error_.message;
  std::memcpy(base() + 12345, "content", sizeof("content"));
  tiering_commit_report report{};
  report.struct_size = sizeof report;
  ASSERT_EQ(tiering_region_commit(region_, true, &report, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(report.written_pages, 1U);
  EXPECT_GT(report.pause_ns, 0U);
  const tiering_status now = status();
  EXPECT_EQ(now.image_path, path_);
  EXPECT_EQ(std::string(now.image_uuid).size(), 36U);
  EXPECT_FALSE(std::string(now.medium).empty());
  EXPECT_EQ(now.commits, 1U);
  EXPECT_EQ(now.committed_epoch, report.epoch);
  EXPECT_EQ(now.written_bytes, pcow::kPageSize);
  EXPECT_EQ(now.allocated_bytes, pcow::kPageSize);
  EXPECT_EQ(now.dram_size_bytes, kSize);
  base()[0] = 'x';
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  // Readable still; saved no more, and said so.
  EXPECT_STREQ(base() + 12345, "content");
  EXPECT_EQ(tiering_region_commit(region_, false, nullptr, &error_), TIERING_E_INVALID);
  EXPECT_EQ(status().allocated_bytes, 2 * pcow::kPageSize);
  EXPECT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK);
  tiering_region_free(region_);
  test::expect_clean_check(path_);
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_STREQ(base() + 12345, "content");
  EXPECT_EQ(base()[0], 'x');
}

// What a session that crashed had reserved is given back by the next one, however short.
TEST_F(CApiTest, ShutdownReclaimsWhatACrashLeftBehind) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  base()[0] = 'a';
  ASSERT_EQ(tiering_region_commit(region_, false, nullptr, nullptr), TIERING_OK);
  tiering_region_free(region_);
  region_ = nullptr;
  // Zeros that nothing owns, in the window of the first chunk: written, because tmpfs tells space
  // that was only reserved as a hole.
  const int fd = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  const std::string zeros(16 * pcow::kPageSize, '\0');
  ASSERT_EQ(pwrite(fd, zeros.data(), zeros.size(), pcow::kSegmentSize + 64 * pcow::kPageSize),
            static_cast<ssize_t>(zeros.size()));
  ::close(fd);
  const auto report = pcow::check_image(path_, false, {});
  ASSERT_OK(report);
  ASSERT_GT(report->leaked_bytes, 0U);
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_EQ(base()[0], 'a');
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  test::expect_clean_check(path_);
}

TEST_F(CApiTest, FreeWithoutShutdownKeepsTheLastCommit) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  base()[0] = 'a';
  ASSERT_EQ(tiering_region_commit(region_, false, nullptr, nullptr), TIERING_OK);
  base()[0] = 'b';
  tiering_region_free(region_);
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_EQ(base()[0], 'a');
}

// Whether this process has a thread of that name.
bool has_thread(const std::string& name) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string found;
    std::getline(std::ifstream(entry.path() / "comm"), found);
    if (found == name) return true;
  }
  return false;
}

bool is_ext4_without_dax(const std::string& path) {
  struct statfs fs = {};
  struct statx file = {};
  EXPECT_EQ(statfs(path.c_str(), &fs), 0);
  EXPECT_EQ(statx(AT_FDCWD, path.c_str(), 0, STATX_TYPE, &file), 0);
  return fs.f_type == EXT4_SUPER_MAGIC && (file.stx_attributes & STATX_ATTR_DAX) == 0;
}

// Where it pays (image.h), and given back.
TEST_F(CApiTest, SpaceIsMadeAheadOfNeed) {
  const char* told = std::getenv("PCOW_TEST_DIR");
  const test::TempDir directory(told != nullptr ? told : "/var/tmp");
  path_ = directory.file("vm.pcow");
  test::create_image(path_, kSize);
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  for (uint64_t page = 0; page < 200; page += 2) base()[page * pcow::kPageSize] = 'a';
  ASSERT_EQ(tiering_region_commit(region_, false, nullptr, nullptr), TIERING_OK);
  EXPECT_EQ(has_thread("pcow-space"), is_ext4_without_dax(path_));
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  EXPECT_FALSE(has_thread("pcow-space"));
  test::expect_clean_check(path_);
}

TEST_F(CApiTest, ASecondUserIsRefused) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  tiering_region* second = nullptr;
  const tiering_options same = options();
  EXPECT_EQ(tiering_region_open(&same, &second, &error_), TIERING_E_BUSY);
  EXPECT_EQ(second, nullptr);
}

TEST_F(CApiTest, WhatIsNotSupportedYetIsRefusedByName) {
  tiering_options wanted = options();
  wanted.persistence = TIERING_PERSISTENCE_EPOCH;
  expect_refused(wanted, TIERING_E_UNSUPPORTED,
                 "persistence=epoch is not supported yet by this hypervisor");
  wanted.persistence = TIERING_PERSISTENCE_DIRECT;
  expect_refused(wanted, TIERING_E_UNSUPPORTED, "persistence=direct");
  wanted = options();
  wanted.policy = TIERING_POLICY_HEAT;
  expect_refused(wanted, TIERING_E_UNSUPPORTED, "tier-policy=heat needs persistence=epoch");
  wanted.policy = static_cast<tiering_policy>(5);
  expect_refused(wanted, TIERING_E_INVALID, "tier-policy=5 is unknown");
}

TEST_F(CApiTest, AFlushMakesAnEpochThatSurvives) {
  const test::TempDir directory;
  path_ = directory.file("vm.pcow");
  test::create_image(path_, kSize);
  Hypervisor hypervisor;
  const tiering_epoch_options epoch = hypervisor.options();
  tiering_options wanted = options();
  wanted.persistence = TIERING_PERSISTENCE_EPOCH;
  wanted.epoch = &epoch;
  ASSERT_EQ(open(wanted), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_epoch_start(region_, &error_), TIERING_E_INVALID);
  {
    const std::lock_guard running(hypervisor.guest);
    base()[5000] = 'a';
  }
  std::promise<int> answer;
  ASSERT_EQ(tiering_region_flush(region_, true, set_code, &answer, &error_), TIERING_OK);
  EXPECT_EQ(answer.get_future().get(), TIERING_OK);
  EXPECT_EQ(tiering_region_commit(region_, false, nullptr, &error_), TIERING_E_INVALID);
  ASSERT_EQ(tiering_region_pin(region_, 0, 10, &error_), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_region_unpin(region_, 0, 10, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_region_unpin(region_, 0, 10, &error_), TIERING_E_INVALID);
  EXPECT_GE(status().committed_epoch, 1U);
  ASSERT_EQ(tiering_epoch_stop(region_, &error_), TIERING_OK);
  tiering_epoch_status now{};
  now.struct_size = sizeof now;
  ASSERT_EQ(tiering_epoch_get_status(region_, &now, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(now.epochs, 1U);
  EXPECT_EQ(now.flushes, 1U);
  EXPECT_GT(now.pause_max_ns, 0U);
  EXPECT_EQ(hypervisor.barriers, 1);
  EXPECT_EQ(hypervisor.failures, 0);
  base()[5000] = 'b';
  tiering_region_free(region_);  // as a crash
  ASSERT_EQ(open(wanted), TIERING_OK) << error_.message;
  EXPECT_EQ(base()[5000], 'a');
  base()[6000] = 'c';
  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  tiering_region_free(region_);
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_EQ(base()[6000], 'c');
}

TEST_F(CApiTest, AFullMediumIsToldAndWaitedFor) {
  const test::SmallTmpfs medium(24 * pcow::kMiB);
  path_ = medium.file("vm.pcow");
  test::create_image(path_, kSize);
  Hypervisor hypervisor;
  const tiering_epoch_options epoch = hypervisor.options();
  tiering_options wanted = options();
  wanted.persistence = TIERING_PERSISTENCE_EPOCH;
  wanted.epoch = &epoch;
  ASSERT_EQ(open(wanted), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  medium.fill("filler");
  {
    const std::lock_guard running(hypervisor.guest);
    base()[5000] = 'a';
  }
  std::promise<int> hasty;
  ASSERT_EQ(tiering_region_flush(region_, false, set_code, &hasty, &error_), TIERING_OK);
  EXPECT_EQ(hasty.get_future().get(), TIERING_E_NO_SPACE);
  std::promise<int> patient;
  ASSERT_EQ(tiering_region_flush(region_, true, set_code, &patient, &error_), TIERING_OK);
  EXPECT_EQ(hypervisor.recoveries, 0);
  ASSERT_EQ(unlink(medium.file("filler").c_str()), 0);
  EXPECT_EQ(patient.get_future().get(), TIERING_OK);
  EXPECT_GT(hypervisor.failures, 0);
  ASSERT_EQ(tiering_epoch_stop(region_, &error_), TIERING_OK);
  EXPECT_EQ(hypervisor.recoveries, 1);
  tiering_region_free(region_);  // as a crash
  ASSERT_EQ(open(wanted), TIERING_OK) << error_.message;
  EXPECT_EQ(base()[5000], 'a');
}

TEST_F(CApiTest, OptionsOfEpochsAreChecked) {
  Hypervisor hypervisor;
  tiering_epoch_options epoch = hypervisor.options();
  tiering_options wanted = options();
  wanted.persistence = TIERING_PERSISTENCE_EPOCH;
  wanted.epoch = &epoch;
  epoch.min_ms = epoch.max_ms + 1;
  expect_refused(wanted, TIERING_E_INVALID, "are not possible");
  epoch = hypervisor.options();
  epoch.overhead_permille = 1001;
  expect_refused(wanted, TIERING_E_INVALID, "overhead");
  epoch = hypervisor.options();
  epoch.while_quiet = nullptr;
  expect_refused(wanted, TIERING_E_INVALID, "function is missing");
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_epoch_start(region_, &error_), TIERING_E_INVALID);
  EXPECT_EQ(tiering_region_flush(region_, false, nullptr, nullptr, &error_), TIERING_E_INVALID);
}

TEST_F(CApiTest, WrongValuesAreRefusedByName) {
  tiering_options wanted = options();
  wanted.size_bytes = 2 * kSize;
  expect_refused(wanted, TIERING_E_INVALID, "size=134217728 does not match image");
  wanted = options();
  wanted.dram_size_bytes = 2 * kSize;
  expect_refused(wanted, TIERING_E_INVALID, "dram-size=134217728 is larger than size=67108864");
  wanted.dram_size_bytes = 1000;
  expect_refused(wanted, TIERING_E_INVALID, "dram-size=1000");
  wanted = options();
  wanted.mapping_budget = 3;
  expect_refused(wanted, TIERING_E_INVALID, "mapping-budget=3");
  wanted = options();
  wanted.image_path = nullptr;
  expect_refused(wanted, TIERING_E_INVALID, "mem-path");
  wanted = options();
  wanted.struct_size = 0;
  expect_refused(wanted, TIERING_E_INVALID, "struct_size");
  wanted = options();
  const unsigned long nodes[] = {0, 0, 1};
  wanted.host_nodes = nodes;
  wanted.max_host_node = 192;
  wanted.numa_policy = TIERING_NUMA_BIND;
  expect_refused(wanted, TIERING_E_INVALID, "host-nodes=128");
  // After all these refusals the image is as it was.
  test::expect_clean_check(path_);
  EXPECT_EQ(open(options()), TIERING_OK) << error_.message;
}

TEST_F(CApiTest, ABaseIsReadOnlyWhereThatIsAllowed) {
  const std::string clone = directory_.file("clone.pcow");
  ASSERT_OK(pcow::Image::create(clone, {.base = pcow::Base{path_, pcow::BaseFormat::kPcow}}));
  tiering_options wanted = options();
  wanted.image_path = clone.c_str();
  expect_refused(wanted, TIERING_E_PERMISSION, "allow-base=on");
  wanted.allow_base = true;
  EXPECT_EQ(open(wanted), TIERING_OK) << error_.message;
}

TEST_F(CApiTest, AMissingImageIsNamed) {
  const std::string absent = directory_.file("absent.pcow");
  tiering_options wanted = options();
  wanted.image_path = absent.c_str();
  expect_refused(wanted, TIERING_E_NOT_FOUND, absent);
}

TEST_F(CApiTest, OlderCallersGetWhatTheyKnow) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  tiering_commit_report report;
  std::memset(&report, 0xee, sizeof report);
  report.struct_size = offsetof(tiering_commit_report, written_pages);
  ASSERT_EQ(tiering_region_commit(region_, false, &report, &error_), TIERING_OK);
  EXPECT_EQ(report.scanned_pages, 0U);
  EXPECT_EQ(report.written_pages, 0xeeeeeeeeeeeeeeee);
}

TEST_F(CApiTest, FreeTakesNull) {
  tiering_region_free(nullptr);
  EXPECT_NE(std::string(tiering_version()).find("pcow format"), std::string::npos);
}

struct Answer {
  int code = 1;
  std::string message;
  std::promise<void> over;

  static void done(void* opaque, int code, const char* message) {
    auto* answer = static_cast<Answer*>(opaque);
    answer->code = code;
    answer->message = message;
    answer->over.set_value();
  }
  int wait() {
    over.get_future().wait();
    return code;
  }
};

std::vector<std::string> names_in(tiering_region* region) {
  std::vector<std::string> names;
  const auto each = [](void* opaque, const tiering_snapshot* snapshot) {
    EXPECT_EQ(snapshot->struct_size, sizeof(tiering_snapshot));
    EXPECT_EQ(snapshot->size_bytes, kSize);
    EXPECT_GT(snapshot->created_ns, 0U);
    static_cast<std::vector<std::string>*>(opaque)->emplace_back(snapshot->name);
  };
  tiering_error error{};
  EXPECT_EQ(tiering_snapshot_list(region, each, &names, &error), TIERING_OK) << error.message;
  return names;
}

TEST_F(CApiTest, SnapshotsOfAVolatileRegion) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  std::memcpy(base() + 5000, "one", sizeof("one"));
  ASSERT_EQ(tiering_region_commit(region_, true, nullptr, &error_), TIERING_OK) << error_.message;
  Answer created;
  ASSERT_EQ(tiering_snapshot_create(region_, "a", Answer::done, &created, &error_), TIERING_OK);
  EXPECT_EQ(created.wait(), TIERING_OK);
  EXPECT_EQ(tiering_snapshot_create(region_, "a", Answer::done, &created, &error_),
            TIERING_E_EXISTS);
  EXPECT_EQ(tiering_snapshot_create(region_, nullptr, Answer::done, &created, &error_),
            TIERING_E_INVALID);
  EXPECT_EQ(names_in(region_), std::vector<std::string>{"a"});
  std::memcpy(base() + 5000, "two", sizeof("two"));
  ASSERT_EQ(tiering_region_commit(region_, true, nullptr, &error_), TIERING_OK) << error_.message;
  Answer deleted;
  EXPECT_EQ(tiering_snapshot_delete(region_, "b", Answer::done, &deleted, &error_),
            TIERING_E_NOT_FOUND);
  ASSERT_EQ(tiering_snapshot_delete(region_, "a", Answer::done, &deleted, &error_), TIERING_OK);
  EXPECT_EQ(deleted.wait(), TIERING_OK);
  EXPECT_TRUE(names_in(region_).empty());
  tiering_deletion_status status{};
  status.struct_size = sizeof status;
  ASSERT_EQ(tiering_deletion_get_status(region_, &status, &error_), TIERING_OK);
  EXPECT_TRUE(status.pending);
  for (int round = 0; round < 3; ++round) {
    for (bool more = true; more;) {
      ASSERT_EQ(tiering_deletion_step(region_, &more, &error_), TIERING_OK) << error_.message;
    }
    ASSERT_EQ(tiering_region_commit(region_, true, nullptr, &error_), TIERING_OK);
  }
  ASSERT_EQ(tiering_deletion_get_status(region_, &status, &error_), TIERING_OK);
  EXPECT_FALSE(status.pending);
  EXPECT_STREQ(status.message, "");
  EXPECT_STREQ(base() + 5000, "two");
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_snapshot_create(region_, "c", Answer::done, &created, &error_),
            TIERING_E_INVALID);
}

TEST_F(CApiTest, HoldingGoesWithEpochsOnly) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  Answer held;
  EXPECT_EQ(tiering_epoch_hold(region_, Answer::done, &held, &error_), TIERING_E_INVALID);
  EXPECT_EQ(tiering_epoch_barrier(region_, &error_), TIERING_E_INVALID);
  EXPECT_EQ(tiering_epoch_release(region_, &error_), TIERING_E_INVALID);
}

}  // namespace
}  // namespace tiering::testing
