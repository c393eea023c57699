// SPDX-License-Identifier: BSD-3-Clause
//
// A commit that fails at any step loses nothing: the next one writes what is missing.
#include <tiering/region.h>
#include <unistd.h>

#include "tests/support/small_tmpfs.h"
#include "tests/unit/tiering/fixture.h"
#include "tests/unit/tiering/image_decorator.h"
#include "tests/unit/tiering/unsure_tracker.h"

namespace tiering::testing {
namespace {

using pcow::Code;
using pcow::kMiB;
using pcow::kPageSize;

constexpr uint64_t kPages = 10000;  // three batches

struct Failure {
  const char* name;
  Code code;
  uint64_t write;   // the failing call of write_pages(), 0: none
  uint64_t commit;  // the failing call of commit(), 0: none
  size_t stored;    // pages that a failing write_pages() has stored
};

class FailureTest : public ImageTest, public ::testing::WithParamInterface<Failure> {
 protected:
  static void arm(ImageDecorator& faulty) {
    faulty.failure = GetParam().code;
    faulty.fail_write_in = GetParam().write;
    faulty.fail_commit_in = GetParam().commit;
    faulty.stored_before_failure = GetParam().stored;
  }
};

TEST_P(FailureTest, NothingIsLost) {
  create(64 * kMiB);
  ImageDecorator faulty(image());
  const auto region = map_region(faulty, {.dram_size = kMiB});
  const auto expect_content = [&](uint64_t generation) {
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(mark(*region, page), page * 10 + generation);
    }
  };
  for (uint64_t generation = 1; generation <= 3; ++generation) {
    for (uint64_t page = 0; page < kPages; ++page) {
      set_mark(*region, page, page * 10 + generation);
    }
    arm(faulty);
    const auto failed = region->commit(true);
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().code, GetParam().code);
    // Every page still counts as dirty, and none was dropped.
    EXPECT_EQ(must(region->status()).dirty_bytes, kPages * kPageSize);
    expect_content(generation);
    // Dirtied again while pending: counted once.
    set_mark(*region, 5, 5 * 10 + generation);
    EXPECT_EQ(must(region->status()).dirty_bytes, kPages * kPageSize);
    // No store in between: only what is pending makes the next commit write.
    const CommitReport report = must(region->commit(true));
    EXPECT_EQ(report.scanned_pages, kPages);
    EXPECT_EQ(report.written_pages, kPages);
    EXPECT_EQ(must(region->status()).dirty_bytes, 0U);
    EXPECT_LE(must(region->status()).dram_resident_bytes, kMiB);
    expect_content(generation);
  }
  for (uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(image_mark(image(), page), page * 10 + 3);
  }
}

// The same where candidates are compared first: a page that a failed call stored may be equal
// already and must be made durable all the same.
TEST_P(FailureTest, NothingIsLostIfTheTrackerIsUnsure) {
  create(64 * kMiB);
  ImageDecorator faulty(image());
  const auto region = must(map_region(faulty, {.dram_size = kMiB}, unsure_tracker(image())));
  for (uint64_t page = 0; page < kPages; ++page) set_mark(*region, page, page + 1);
  arm(faulty);
  ASSERT_FALSE(region->commit(true));
  const CommitReport report = must(region->commit(true));
  EXPECT_EQ(report.written_pages, kPages);
  for (uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(mark(*region, page), page + 1);
}

INSTANTIATE_TEST_SUITE_P(Steps, FailureTest,
                         ::testing::Values(Failure{"FirstWriteNoSpace", Code::kNoSpace, 1, 0, 0},
                                           Failure{"SecondWriteNoSpace", Code::kNoSpace, 2, 0, 0},
                                           Failure{"ThirdWriteIo", Code::kIo, 3, 0, 0},
                                           Failure{"SecondWriteTorn", Code::kIo, 2, 0, 1000},
                                           Failure{"CommitIo", Code::kIo, 0, 1, 0},
                                           Failure{"CommitNoSpace", Code::kNoSpace, 0, 1, 0}),
                         [](const auto& param) { return param.param.name; });

// The real thing: the medium runs full during a commit, is given room, and nothing is missing.
TEST(FullMediumTest, ACommitSucceedsOnceThereIsRoom) {
  const test::SmallTmpfs medium(24 * kMiB);
  const std::string path = medium.file("vm.pcow");
  must(pcow::Image::create(path, {.virtual_size = 64 * kMiB, .log_size = 4 * kMiB}));
  const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
  const auto region = map_region(*image, {.dram_size = kMiB});
  for (uint64_t page = 0; page < 2000; ++page) set_mark(*region, page, page + 1);
  medium.fill("filler");
  const auto failed = region->commit(true);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, Code::kNoSpace) << failed.error().message;
  EXPECT_EQ(must(region->status()).dirty_bytes, 2000 * kPageSize);
  ASSERT_EQ(unlink(medium.file("filler").c_str()), 0);
  EXPECT_EQ(must(region->commit(true)).written_pages, 2000U);
  for (uint64_t page = 0; page < 2000; ++page) {
    ASSERT_EQ(mark(*region, page), page + 1);
    ASSERT_EQ(image_mark(*image, page), page + 1);
  }
  must(image->close());
}

}  // namespace
}  // namespace tiering::testing
