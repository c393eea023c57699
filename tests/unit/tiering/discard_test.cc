// SPDX-License-Identifier: BSD-3-Clause
//
// Memory that is given up: zero at once, for good, and neither DRAM nor file space is kept for it;
// what lies beside it is not touched, and what is stored later is kept.
#include <tiering/region.h>

#include <utility>
#include <vector>

#include "tests/support/image_fixture.h"
#include "tests/unit/tiering/fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering::testing {
namespace {

using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kSize = 64 * kMiB;
constexpr uint64_t kMarked = 5 * kPagesPerChunk;

class DiscardTest : public ImageTest, public ::testing::WithParamInterface<Persistence> {
 protected:
  bool epochs() const { return GetParam() == Persistence::kEpoch; }
  std::unique_ptr<Region> map(pcow::Image& image, uint32_t budget = kDefaultMappingBudget) const {
    return map_region(image, {.persistence = GetParam(), .mapping_budget = budget});
  }
  static void discard(Region& region, uint64_t first, uint64_t count) {
    must(region.discard(first * kPageSize, count * kPageSize));
  }
  static void set_marks(Region& region, uint64_t first, uint64_t end) {
    for (uint64_t page = first; page < end; ++page) set_mark(region, page, page + 1);
  }
  // Each page has its mark, but for those that were given up.
  static void expect_marks(const Region& region, uint64_t first_zero, uint64_t end_zero) {
    for (uint64_t page = 0; page < kMarked; ++page) {
      const bool zero = page >= first_zero && page < end_zero;
      ASSERT_EQ(mark(region, page), zero ? 0 : page + 1) << page;
    }
  }
  // The first chunks are mapped from their windows, and no page is in DRAM.
  std::unique_ptr<Region> map_cached(uint32_t budget = kDefaultMappingBudget) {
    create(kSize);
    {
      const auto region = map(image());
      set_marks(*region, 0, kMarked);
      must(region->commit(false));
    }
    close();
    open();
    auto region = map(image(), budget);
    EXPECT_EQ(must(region->status()).cached_chunks, 5U);
    EXPECT_EQ(resident(*region), 0U);
    return region;
  }
  static uint64_t resident(Region& region) {
    return must(region.status()).dram_resident_bytes / kPageSize;
  }
  void crash(std::unique_ptr<Region>& region) {
    region.reset();
    drop();
    open();
    region = map(image());
  }
  void finish(std::unique_ptr<Region>& region) {
    region.reset();
    must(image().reclaim_unowned());
    close();
    test::expect_clean_check(path());
  }
};

TEST_P(DiscardTest, MemoryThatNoImageHasGoesAtOnce) {
  create(kSize);
  auto region = map(image());
  set_marks(*region, 0, kMarked);
  EXPECT_EQ(resident(*region), kMarked);
  discard(*region, 100, 1000);
  EXPECT_EQ(resident(*region), kMarked - 1000);
  expect_marks(*region, 100, 1100);
  must(region->commit(true));
  expect_marks(*region, 100, 1100);
  EXPECT_EQ(image().info().allocated_bytes, (kMarked - 1000) * kPageSize);
  crash(region);
  expect_marks(*region, 100, 1100);
  finish(region);
}

TEST_P(DiscardTest, WholeChunksGoAtOnce) {
  auto region = map_cached();
  const uint64_t taken = image().info().disk_bytes;
  for (uint64_t page = 700; page < 800; ++page) set_mark(*region, page, 1);
  discard(*region, kPagesPerChunk, 2 * kPagesPerChunk);
  EXPECT_EQ(must(region->status()).cached_chunks, 3U);
  EXPECT_EQ(resident(*region), 0U);
  EXPECT_LE(kernel_mappings(*region), must(region->status()).mappings);
  expect_marks(*region, kPagesPerChunk, 3 * kPagesPerChunk);
  must(region->commit(true));
  EXPECT_EQ(resident(*region), 0U);
  EXPECT_LE(image().info().disk_bytes, taken - 2 * pcow::kChunkSize + pcow::kMiB);
  crash(region);
  expect_marks(*region, kPagesPerChunk, 3 * kPagesPerChunk);
  finish(region);
}

// With epochs a crash leaves what the last one had; without, old or zero.
TEST_P(DiscardTest, IsPartOfTheNextEpoch) {
  auto region = map_cached();
  discard(*region, kPagesPerChunk, kPagesPerChunk);
  discard(*region, 10, 20);
  crash(region);
  for (uint64_t page = 0; page < kMarked; ++page) {
    const bool given_up = (page >= 10 && page < 30) || (page >= 512 && page < 1024);
    const uint64_t found = mark(*region, page);
    const bool may_be_zero = given_up && !epochs();
    ASSERT_TRUE(found == page + 1 || (may_be_zero && found == 0)) << page << ": " << found;
  }
  if (!epochs()) return;
  must(region->barrier());
  discard(*region, 100, 10);  // after the barrier, so of the epoch after it
  EXPECT_EQ(mark(*region, 105), 0U);
  must(region->commit_epoch());
  EXPECT_EQ(mark(*region, 105), 0U);
  crash(region);
  EXPECT_EQ(mark(*region, 105), 106U);
  discard(*region, 100, 10);
  EXPECT_FALSE(must(region->precopy()).idle);
  must(region->barrier());
  must(region->commit_epoch());
  crash(region);
  expect_marks(*region, 100, 110);
  finish(region);
}

// Of a chunk that is mapped from its window: zeros take DRAM until the image has them.
TEST_P(DiscardTest, PartsOfChunksGoWithTheImage) {
  auto region = map_cached();
  discard(*region, 600, 1);
  discard(*region, 601, 299);
  EXPECT_EQ(must(region->status()).cached_chunks, 5U);
  expect_marks(*region, 600, 900);
  must(region->commit(true));
  EXPECT_EQ(resident(*region), 0U);
  expect_marks(*region, 600, 900);
  // One that is in use again stays.
  discard(*region, 900, 2);
  set_mark(*region, 901, 7);
  must(region->commit(true));
  EXPECT_EQ(mark(*region, 900), 0U);
  EXPECT_EQ(mark(*region, 901), 7U);
  crash(region);
  EXPECT_EQ(mark(*region, 900), 0U);
  EXPECT_EQ(mark(*region, 901), 7U);
  finish(region);
}

// What the window of a chunk has nothing of is dropped like memory of a hole.
TEST_P(DiscardTest, NewPagesOfAWindowGoAtOnce) {
  create(kSize);
  auto region = map(image());
  set_marks(*region, 0, 100);
  must(region->commit(false));
  region.reset();
  close();
  open();
  region = map(image());
  set_mark(*region, 200, 1);
  set_mark(*region, 201, 1);
  EXPECT_EQ(resident(*region), 2U);
  discard(*region, 150, 51);
  EXPECT_EQ(resident(*region), 1U);
  EXPECT_EQ(mark(*region, 200), 0U);
  EXPECT_EQ(mark(*region, 201), 1U);
  EXPECT_EQ(mark(*region, 99), 100U);
  must(region->commit(true));
  EXPECT_EQ(mark(*region, 200), 0U);
  finish(region);
}

TEST_P(DiscardTest, WhatIsStoredLaterIsKept) {
  auto region = map_cached();
  discard(*region, 0, kMarked);
  expect_marks(*region, 0, kMarked);
  set_mark(*region, 5, 50);
  if (epochs()) must(region->precopy());
  set_mark(*region, 600, 60);
  discard(*region, 7, 1);
  set_mark(*region, 7, 70);
  must(region->commit(true));
  set_mark(*region, 8, 80);
  discard(*region, 600, 1);
  set_mark(*region, 600, 61);
  must(region->commit(true));
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(mark(*region, 5), 50U);
    EXPECT_EQ(mark(*region, 7), 70U);
    EXPECT_EQ(mark(*region, 8), 80U);
    EXPECT_EQ(mark(*region, 600), 61U);
    EXPECT_EQ(mark(*region, 6), 0U);
    EXPECT_EQ(mark(*region, 601), 0U);
    if (round == 0) crash(region);
  }
  finish(region);
}

TEST_P(DiscardTest, WhatIsPinnedStaysAndIsZero) {
  auto region = map_cached();
  constexpr uint64_t kPinned = kPagesPerChunk + 9;
  must(region->pin(kPinned * kPageSize + 17, 5000));
  discard(*region, kPagesPerChunk, kPagesPerChunk);
  discard(*region, 2 * kPagesPerChunk, kPagesPerChunk);
  EXPECT_EQ(must(region->status()).cached_chunks, 4U);
  expect_marks(*region, kPagesPerChunk, 3 * kPagesPerChunk);
  set_mark(*region, kPinned, 99);  // by a device
  must(region->unpin(kPinned * kPageSize + 17, 5000));
  must(region->commit(false));
  crash(region);
  EXPECT_EQ(mark(*region, kPinned), 99U);
  EXPECT_EQ(mark(*region, kPinned + 1), 0U);
  finish(region);
}

TEST_P(DiscardTest, SnapshotsKeepWhatTheyHave) {
  auto region = map_cached();
  must(region->create_snapshot("s"));
  discard(*region, kPagesPerChunk, kPagesPerChunk);
  discard(*region, 10, 5);
  must(region->commit(true));
  discard(*region, 2 * kPagesPerChunk + 1, 3);
  must(region->commit(true));
  EXPECT_EQ(mark(*region, 10), 0U);
  EXPECT_EQ(mark(*region, 600), 0U);
  EXPECT_EQ(mark(*region, 2 * kPagesPerChunk + 2), 0U);
  finish(region);
  {
    const auto kept = must(pcow::Image::open(path(), {.snapshot = "s"}));
    for (const uint64_t page : {uint64_t{10}, uint64_t{600}, 2 * kPagesPerChunk + 2}) {
      EXPECT_EQ(image_mark(*kept, page), page + 1);
    }
  }
  open();
  region = map(image());
  EXPECT_EQ(mark(*region, 10), 0U);
  EXPECT_EQ(mark(*region, 600), 0U);
  EXPECT_EQ(mark(*region, 2 * kPagesPerChunk + 2), 0U);
  EXPECT_EQ(mark(*region, 2 * kPagesPerChunk), 2 * kPagesPerChunk + 1);
}

// Without room for more mappings all reads as zeros just the same.
TEST_P(DiscardTest, KeepsToTheBudget) {
  constexpr uint64_t kChunks = 30;
  create(kSize);
  {
    const auto region = map(image());
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) set_mark(*region, chunk * 512 + 3, 1);
    must(region->commit(false));
  }
  close();
  open();
  auto region = map(image(), kMinMappingBudget);
  for (uint64_t chunk = 0; chunk < kChunks; chunk += 2) discard(*region, chunk * 512, 512);
  const RegionStatus status = must(region->status());
  EXPECT_LE(status.mappings, kMinMappingBudget);
  EXPECT_LE(kernel_mappings(*region), status.mappings);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      EXPECT_EQ(mark(*region, chunk * 512 + 3), chunk % 2) << chunk;
    }
    must(region->commit(true));
  }
  EXPECT_EQ(resident(*region), 0U);
  finish(region);
}

TEST_P(DiscardTest, RefusesWhatIsNoMemoryOfTheRegion) {
  create(kSize);
  const auto region = map(image());
  for (const auto& [offset, length] :
       {std::pair{uint64_t{0}, uint64_t{0}}, std::pair{uint64_t{1}, kPageSize},
        std::pair{uint64_t{0}, kPageSize + 1}, std::pair{kSize, kPageSize},
        std::pair{kPageSize, kSize}, std::pair{~uint64_t{0} - kPageSize + 1, 2 * kPageSize}}) {
    EXPECT_EQ(region->discard(offset, length).error().code, pcow::Code::kInvalid) << offset;
  }
}

// The image follows when it can.
TEST_P(DiscardTest, AFailingImageLosesNothing) {
  auto first = map_cached();
  first.reset();
  ImageDecorator failing(image());
  failing.failure = pcow::Code::kNoSpace;
  auto region = map(failing);
  set_mark(*region, 2 * kMarked, 33);
  failing.fail_write_in = 1;
  discard(*region, kPagesPerChunk, kPagesPerChunk);
  expect_marks(*region, kPagesPerChunk, 2 * kPagesPerChunk);
  failing.fail_write_in = 1;
  failing.fail_log_in = 1;
  EXPECT_EQ(region->commit(true).error().code, pcow::Code::kNoSpace);
  expect_marks(*region, kPagesPerChunk, 2 * kPagesPerChunk);
  must(region->commit(true));
  expect_marks(*region, kPagesPerChunk, 2 * kPagesPerChunk);
  region.reset();
  EXPECT_EQ(image_mark(image(), 2 * kMarked), 33U);
  EXPECT_EQ(image_mark(image(), kPagesPerChunk - 1), kPagesPerChunk);
  EXPECT_EQ(image_mark(image(), kPagesPerChunk), 0U);
  EXPECT_EQ(image_mark(image(), 2 * kPagesPerChunk - 1), 0U);
}

INSTANTIATE_TEST_SUITE_P(Both, DiscardTest,
                         ::testing::Values(Persistence::kVolatile, Persistence::kEpoch),
                         [](const ::testing::TestParamInfo<Persistence>& param) {
                           return param.param == Persistence::kEpoch ? "epoch" : "volatile";
                         });

// --- with epochs -----------------------------------------------------------------------------

class EpochDiscardTest : public ImageTest {};

// What was to be demoted at the barrier is given up before.
TEST_F(EpochDiscardTest, BetweenThePlanOfADemotionAndTheBarrier) {
  create(kSize);
  auto region =
      map_region(image(), {.persistence = Persistence::kEpoch, .dram_size = 16 * kPageSize});
  for (uint64_t page = 0; page < 1500; ++page) set_mark(*region, page, page + 1);
  must(region->barrier());
  must(region->commit_epoch());
  EXPECT_TRUE(must(region->checkpoint(UINT64_MAX)).done);
  EXPECT_GT(must(region->prepare_demotion(UINT64_MAX / 2)), 1000U);
  must(region->discard(0, 700 * kPageSize));
  must(region->barrier());
  for (uint64_t page = 0; page < 1500; ++page) {
    ASSERT_EQ(mark(*region, page), page < 700 ? 0 : page + 1) << page;
  }
  must(region->commit_epoch());
  region.reset();
  drop();
  open();
  region = map_region(image(), {.persistence = Persistence::kEpoch});
  for (uint64_t page = 0; page < 1500; ++page) {
    ASSERT_EQ(mark(*region, page), page < 700 ? 0 : page + 1) << page;
  }
}

// Far more than the log holds, in one epoch.
TEST_F(EpochDiscardTest, AnyAmountFitsInAnEpoch) {
  constexpr uint64_t kPages = 8 * kPagesPerChunk;
  must(pcow::Image::create(path(), {.virtual_size = kSize, .log_size = 4 * kMiB}));
  open();
  auto region = map_region(image(), {.persistence = Persistence::kEpoch});
  for (uint64_t page = 0; page < kPages; ++page) set_mark(*region, page, page + 1);
  must(region->commit(false));
  must(region->discard(kPageSize, (kPages - 1) * kPageSize));
  const BarrierReport report = must(region->barrier());
  EXPECT_LE(report.logged_bytes, 8 * 128U);
  EXPECT_EQ(report.residue_pages, 0U);
  must(region->commit_epoch());
  EXPECT_TRUE(must(region->checkpoint(UINT64_MAX)).done);
  const uint64_t taken = image().info().disk_bytes;
  region.reset();
  EXPECT_LE(taken, 6 * kMiB);  // the log, and what is not data
  EXPECT_EQ(image_mark(image(), 0), 1U);
  for (uint64_t page = 1; page < kPages; page += 7) ASSERT_EQ(image_mark(image(), page), 0U);
}

}  // namespace
}  // namespace tiering::testing
