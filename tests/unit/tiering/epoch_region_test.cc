// SPDX-License-Identifier: BSD-3-Clause
//
// A region with epochs, step by step: what is durable when, what demotion may drop, what pins keep.
#include <tiering/region.h>

#include <vector>

#include "tests/support/image_fixture.h"
#include "tests/unit/tiering/fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering::testing {
namespace {

using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kAll = ~uint64_t{0} / 2;

class EpochRegionTest : public ImageTest {
 protected:
  // A log of 4 MiB: about a thousand pages.
  void create_small_log(uint64_t size) {
    must(pcow::Image::create(path(), {.virtual_size = size, .log_size = 4 * kMiB}));
    open();
  }
  std::unique_ptr<Region> map(uint64_t dram_size = 0) {
    return map_region(image(), {.persistence = Persistence::kEpoch, .dram_size = dram_size});
  }
  static pcow::Epoch finish(Region& region) {
    must(region.barrier());
    return must(region.commit_epoch());
  }
  static void checkpoint(Region& region) { EXPECT_TRUE(must(region.checkpoint(kAll)).done); }
  // As after a crash: neither region nor image is closed.
  void crash(std::unique_ptr<Region>& region) {
    region.reset();
    drop();
    open();
  }
};

TEST_F(EpochRegionTest, ACrashLeavesTheLastBarrierThatWasCommitted) {
  create(64 * kMiB);
  auto region = map();
  set_mark(*region, 7, 70);
  set_mark(*region, 8000, 80);
  const pcow::Epoch first = finish(*region);
  set_mark(*region, 7, 71);  // of the next epoch, of which nothing remains
  set_mark(*region, 9, 90);
  must(region->precopy());
  must(region->barrier());
  crash(region);
  EXPECT_EQ(image().info().committed_epoch, first);
  region = map();
  EXPECT_EQ(mark(*region, 7), 70U);
  EXPECT_EQ(mark(*region, 8000), 80U);
  EXPECT_EQ(mark(*region, 9), 0U);
}

TEST_F(EpochRegionTest, WhatIsStoredBetweenBarrierAndCommitBelongsToTheNextEpoch) {
  create(64 * kMiB);
  auto region = map();
  set_mark(*region, 3, 30);
  must(region->barrier());
  set_mark(*region, 3, 31);
  set_mark(*region, 4, 41);
  EXPECT_EQ(region->precopy().error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->barrier().error().code, pcow::Code::kInvalid);
  must(region->commit_epoch());
  EXPECT_EQ(image_mark(image(), 3), 30U);
  crash(region);
  region = map();
  EXPECT_EQ(mark(*region, 3), 30U);
  EXPECT_EQ(mark(*region, 4), 0U);
  set_mark(*region, 4, 42);
  finish(*region);
  crash(region);
  EXPECT_EQ(image_mark(image(), 4), 42U);
}

TEST_F(EpochRegionTest, RoundsFindWhatWasStoredSinceTheRoundBefore) {
  create(64 * kMiB);
  auto region = map();
  if (must(region->status()).tracker != TrackerKind::kPagemapScan) {
    EXPECT_EQ(must(region->precopy()).found_pages, 0U);
    return;
  }
  for (uint64_t page = 0; page < 100; ++page) set_mark(*region, page, page + 1);
  EXPECT_EQ(must(region->precopy()).found_pages, 100U);
  EXPECT_EQ(must(region->precopy()).found_pages, 0U);
  set_mark(*region, 5, 55);
  set_mark(*region, 100, 101);
  const BarrierReport report = must(region->barrier());
  EXPECT_EQ(report.residue_pages, 2U);
  must(region->commit_epoch());
  crash(region);
  for (uint64_t page = 0; page <= 100; ++page) {
    EXPECT_EQ(image_mark(image(), page), page == 5 ? 55 : page + 1) << page;
  }
}

TEST_F(EpochRegionTest, AVolatileRegionHasNoEpochs) {
  create(8 * kMiB);
  const auto region = map_region(image());
  EXPECT_EQ(region->precopy().error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->prepare_demotion(1).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->barrier().error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->commit_epoch().error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->checkpoint(1).error().code, pcow::Code::kInvalid);
}

TEST_F(EpochRegionTest, CommitIsAWholeEpoch) {
  create(64 * kMiB);
  auto region = map(kMiB);
  for (uint64_t page = 0; page < 2000; ++page) set_mark(*region, page, page + 1);
  const CommitReport report = must(region->commit(true));
  EXPECT_EQ(report.written_pages, 2000U);
  EXPECT_GE(report.demoted_pages, 2000U - kMiB / kPageSize);
  EXPECT_LE(must(region->status()).dram_resident_bytes, kMiB);
  EXPECT_EQ(must(region->status()).dirty_bytes, 0U);
  for (uint64_t page = 0; page < 2000; ++page) ASSERT_EQ(mark(*region, page), page + 1);
  region.reset();
  close();
  test::expect_clean_check(path());
}

// Demotion: only clean copies whose content is at its place.
TEST_F(EpochRegionTest, WhatIsInTheLogIsNotDropped) {
  create(64 * kMiB);
  const auto region = map(kPageSize);
  for (uint64_t page = 0; page < 600; ++page) set_mark(*region, page, 1);
  finish(*region);
  for (uint64_t page = 0; page < 600; ++page) set_mark(*region, page, page + 1);
  finish(*region);
  EXPECT_EQ(must(region->prepare_demotion(kAll)), 0U);
  checkpoint(*region);
  EXPECT_GE(must(region->prepare_demotion(kAll)), 599U);
  set_mark(*region, 1, 1001);
  const BarrierReport report = must(region->barrier());
  EXPECT_GE(report.demoted_pages, 600 - kPagesPerChunk) << "of the chunk that nobody stored to";
  EXPECT_GE(report.kept_pages, 1U);
  must(region->commit_epoch());
  EXPECT_EQ(mark(*region, 1), 1001U);
  for (uint64_t page = 2; page < 600; ++page) ASSERT_EQ(mark(*region, page), page + 1) << page;
}

// In a chunk that is mapped from its window copies go one by one, but for those stored to since.
TEST_F(EpochRegionTest, WhatIsStoredToAfterThePlanStays) {
  create(64 * kMiB);
  const auto region = map(kPageSize);
  for (uint64_t page = 0; page < 64; ++page) set_mark(*region, page, page + 1);
  must(region->commit(true));
  ASSERT_LE(must(region->status()).dram_resident_bytes, kPageSize);
  for (uint64_t page = 0; page < 64; ++page) set_mark(*region, page, page + 101);
  finish(*region);
  checkpoint(*region);
  set_mark(*region, 10, 1010);  // before the plan
  EXPECT_EQ(must(region->prepare_demotion(kAll)), 63U);
  set_mark(*region, 11, 1011);  // after it, and found by a round
  must(region->precopy());
  set_mark(*region, 12, 1012);  // found by the barrier
  const BarrierReport report = must(region->barrier());
  EXPECT_EQ(report.demoted_pages, 61U);
  EXPECT_EQ(report.kept_pages, 2U);
  must(region->commit_epoch());
  for (uint64_t page = 0; page < 64; ++page) {
    const bool late = page >= 10 && page <= 12;
    ASSERT_EQ(mark(*region, page), page + (late ? 1000 : 101)) << page;
    ASSERT_EQ(image_mark(image(), page), page + (late ? 1000 : 101)) << page;
  }
}

TEST_F(EpochRegionTest, APinnedPageStaysWhereItIsAndIsCopiedAgain) {
  create(64 * kMiB);
  auto region = map(kPageSize);
  for (uint64_t page = 0; page < 64; ++page) set_mark(*region, page, page + 1);
  must(region->commit(true));
  for (uint64_t page = 0; page < 64; ++page) set_mark(*region, page, page + 101);
  finish(*region);
  checkpoint(*region);
  must(region->pin(20 * kPageSize + 100, kPageSize));  // two pages
  must(region->prepare_demotion(kAll));
  BarrierReport report = must(region->barrier());
  EXPECT_EQ(report.pinned_pages, 2U);
  EXPECT_EQ(report.residue_pages, 2U);
  EXPECT_EQ(report.kept_pages, 2U);
  must(region->commit_epoch());
  report = must(region->barrier());
  EXPECT_EQ(report.residue_pages, 2U) << "still pinned";
  must(region->commit_epoch());
  must(region->unpin(20 * kPageSize + 100, kPageSize));
  report = must(region->barrier());
  EXPECT_EQ(report.residue_pages, 2U) << "what was stored before the unpin";
  must(region->commit_epoch());
  EXPECT_EQ(must(region->barrier()).residue_pages, 0U);
  must(region->commit_epoch());
}

TEST_F(EpochRegionTest, PinsOutsideTheRegionAndUnpinsOfNothingAreRefused) {
  create(8 * kMiB);
  const auto region = map();
  EXPECT_EQ(region->pin(8 * kMiB, 1).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->pin(8 * kMiB - 1, 2).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->pin(1, ~uint64_t{0}).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->pin(0, 0).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->unpin(0, 1).error().code, pcow::Code::kInvalid);
  must(region->pin(0, 1));
  must(region->pin(0, 1));
  must(region->unpin(0, 1));
  must(region->unpin(0, 1));
  EXPECT_EQ(region->unpin(0, 1).error().code, pcow::Code::kInvalid);
}

TEST_F(EpochRegionTest, AnUnpinMayKnowOfAPartOnly) {
  create(8 * kMiB);
  const auto region = map();
  must(region->pin(0, 3 * kPageSize));
  must(region->pin(0, 2 * kPageSize));
  must(region->unpin(0, kPageSize));  // the shorter one
  EXPECT_EQ(must(region->barrier()).pinned_pages, 3U);
  must(region->commit_epoch());
  EXPECT_EQ(region->unpin(0, 4 * kPageSize).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region->unpin(kPageSize, kPageSize).error().code, pcow::Code::kInvalid);
  must(region->unpin(0, kPageSize));
  must(region->barrier());  // of what was just released
  must(region->commit_epoch());
  EXPECT_EQ(must(region->barrier()).pinned_pages, 0U);
  must(region->commit_epoch());
}

// Changes all of these pages, which the image owns: more than a log of 4 MiB takes.
class OutgrownLogTest : public EpochRegionTest {
 protected:
  static constexpr uint64_t kPages = 3000;

  void map_owned(pcow::Image& image) {
    region_ = map_region(image, {.persistence = Persistence::kEpoch});
    for (uint64_t page = 0; page < kPages; ++page) set_mark(*region_, page, 1);
    before_ = finish(*region_);
  }
  void change_all(std::byte value) {
    for (uint64_t page = 0; page < kPages; ++page) {
      std::byte* const at = region_->base() + page * kPageSize;
      for (uint64_t i = 0; i < kPageSize; i += 8) at[i] = value;
    }
  }
  void precopy() {
    if (must(region_->status()).tracker != TrackerKind::kPagemapScan) return;
    EXPECT_TRUE(must(region_->precopy()).log_filling);
  }
  // All pages are of the same moment.
  void expect_all(std::byte value) {
    std::vector<std::byte> page(kPageSize);
    for (uint64_t index = 0; index < kPages; ++index) {
      must(image().read(index * kPageSize, page));
      for (uint64_t i = 0; i < kPageSize; i += 8) ASSERT_EQ(page[i], value) << index;
    }
  }

  std::unique_ptr<Region> region_;
  pcow::Epoch before_;
};

TEST_F(OutgrownLogTest, AnEpochThatOutgrowsTheLogIsWholeAllTheSame) {
  create_small_log(64 * kMiB);
  map_owned(image());
  change_all(std::byte{6});
  precopy();
  change_all(std::byte{7});
  set_mark(*region_, kPages + 1000, 5);  // nobody owned it
  const BarrierReport report = must(region_->barrier());
  EXPECT_EQ(report.restarts, 1U);
  change_all(std::byte{8});  // of the next
  EXPECT_EQ(must(region_->commit_epoch()).value, before_.value + 1);
  EXPECT_GT(image().log_state().size, 12 * kMiB);
  crash(region_);
  expect_all(std::byte{7});
  EXPECT_EQ(image_mark(image(), kPages + 1000), 5U);
  map_owned(image());
  change_all(std::byte{9});
  EXPECT_EQ(must(region_->barrier()).restarts, 0U) << "the log stays that large";
}

// What was logged as zeros before it began again is zeros in the end.
TEST_F(OutgrownLogTest, WhatWasGivenUpStaysZero) {
  create_small_log(64 * kMiB);
  map_owned(image());
  must(region_->discard(pcow::kChunkSize, pcow::kChunkSize));
  if (must(region_->status()).tracker == TrackerKind::kPagemapScan) must(region_->precopy());
  const auto given_up = [](uint64_t page) { return page / pcow::kPagesPerChunk == 1; };
  for (uint64_t page = 0; page < kPages; ++page) {
    std::byte* const at = region_->base() + page * kPageSize;
    for (uint64_t i = 0; i < kPageSize && !given_up(page); i += 8) at[i] = std::byte{9};
  }
  EXPECT_EQ(must(region_->barrier()).restarts, 1U);
  must(region_->commit_epoch());
  crash(region_);
  std::vector<std::byte> content(kPageSize);
  for (uint64_t page = 0; page < kPages; ++page) {
    must(image().read(page * kPageSize, content));
    const std::byte expected = given_up(page) ? std::byte{0} : std::byte{9};
    for (uint64_t i = 0; i < kPageSize; i += 8) ASSERT_EQ(content[i], expected) << page;
  }
}

// What was to be dropped at the barrier stays, and is dropped at the next.
TEST_F(OutgrownLogTest, ItDropsNothingThatWasPlannedForIt) {
  create_small_log(64 * kMiB);
  region_ = map_region(image(), {.persistence = Persistence::kEpoch, .dram_size = kMiB});
  for (uint64_t page = 0; page < 2 * kPages; ++page) set_mark(*region_, page, page + 1);
  finish(*region_);
  checkpoint(*region_);
  must(region_->prepare_demotion(kAll));
  change_all(std::byte{7});
  const BarrierReport report = must(region_->barrier());
  EXPECT_EQ(report.restarts, 1U);
  EXPECT_EQ(report.demoted_pages, 0U);
  must(region_->commit_epoch());
  checkpoint(*region_);
  EXPECT_GT(must(region_->prepare_demotion(kAll)), 0U);
  EXPECT_GT(must(region_->barrier()).demoted_pages, 0U);
  must(region_->commit_epoch());
  for (uint64_t page = kPages; page < 2 * kPages; ++page) {
    ASSERT_EQ(mark(*region_, page), page + 1);
  }
  expect_all(std::byte{7});
}

// The last resort loses nothing of memory, and the image keeps the last epoch.
TEST_F(OutgrownLogTest, WhatEvenTheLargestLogDoesNotTakeIsRefused) {
  create_small_log(64 * kMiB);
  ImageDecorator limited(image());
  limited.log_size_max = 6 * kMiB;
  map_owned(limited);
  change_all(std::byte{7});
  precopy();
  const auto result = region_->barrier();
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, pcow::Code::kLogFull);
  EXPECT_NE(result.error().message.find("larger log"), std::string::npos) << result.error().message;
  EXPECT_EQ(image().log_state().size, 6 * kMiB);
  EXPECT_EQ(region_->commit_epoch().error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region_->barrier().error().code, pcow::Code::kLogFull) << "all is remembered";
  EXPECT_EQ(region_->base()[(kPages - 1) * kPageSize], std::byte{7});
  limited.log_size_max = 64 * kMiB;
  must(region_->barrier());
  must(region_->commit_epoch());
  change_all(std::byte{8});
  crash(region_);
  expect_all(std::byte{7});
}

// Neither is what a round found and did not log: it is armed, and nowhere else.
TEST_F(EpochRegionTest, WhatARoundThatWasStoppedLeavesIsNotDropped) {
  create_small_log(64 * kMiB);
  const auto region = map(kPageSize);
  for (uint64_t page = 0; page < 600; ++page) set_mark(*region, page, page + 1);
  must(region->commit(true));
  for (uint64_t page = 0; page < 600; ++page) set_mark(*region, page, page + 1001);
  if (must(region->status()).tracker != TrackerKind::kPagemapScan) return;
  uint64_t left = 0;
  uint64_t room = 0;
  const auto stop = [&](uint64_t left_pages, uint64_t room_pages) {
    if (left > 0) {
      EXPECT_LT(room_pages, room);
    }
    left = left_pages;
    room = room_pages;
    return left <= 300;
  };
  EXPECT_TRUE(must(region->precopy(stop)).log_filling);
  EXPECT_LE(left, 300U);
  EXPECT_GT(left, 0U);
  EXPECT_EQ(must(region->status()).dirty_bytes, left * kPageSize);
  must(region->prepare_demotion(kAll));
  must(region->barrier());
  must(region->commit_epoch());
  for (uint64_t page = 0; page < 600; ++page) ASSERT_EQ(mark(*region, page), page + 1001) << page;
}

// Rounds leave half of the log to the barrier, however often pages are copied again.
TEST_F(EpochRegionTest, RoundsLeaveRoomForTheBarrier) {
  create_small_log(64 * kMiB);
  const auto region = map();
  for (int round = 0; round < 40; ++round) {
    for (uint64_t page = 0; page < 300; ++page) {
      for (uint64_t i = 0; i < kPageSize; i += 8) {
        region->base()[page * kPageSize + i] = static_cast<std::byte>(round + 1);
      }
    }
    must(region->precopy());
  }
  must(region->barrier());
  must(region->commit_epoch());
  EXPECT_EQ(test::read_page(image(), 299)[8], std::byte{40});
}

// A failure of the log leaves what was found to be logged again.
TEST_F(EpochRegionTest, AFailureForgetsNothing) {
  create(64 * kMiB);
  ImageDecorator decorator(image());
  auto region = must(Region::map(decorator, {.persistence = Persistence::kEpoch}));
  decorator.failure = pcow::Code::kNoSpace;
  for (uint64_t page = 0; page < 3000; ++page) set_mark(*region, page, page + 1);
  decorator.fail_log_in = 2;
  EXPECT_EQ(region->barrier().error().code, pcow::Code::kNoSpace);
  EXPECT_GE(must(region->status()).dirty_bytes, (3000 - 1024) * kPageSize);
  must(region->barrier());
  decorator.fail_commit_in = 1;
  EXPECT_EQ(region->commit_epoch().error().code, pcow::Code::kNoSpace);
  EXPECT_EQ(region->barrier().error().code, pcow::Code::kInvalid) << "it waits for its commit";
  must(region->commit_epoch());
  crash(region);
  for (uint64_t page = 0; page < 3000; ++page) ASSERT_EQ(image_mark(image(), page), page + 1);
}

// Where the budget has no room for chunks one by one, a GiB that is clean becomes one mapping.
TEST_F(EpochRegionTest, ATightMappingBudgetMapsWholeGibs) {
  create(512 * kMiB);
  const auto region = map_region(image(), {.persistence = Persistence::kEpoch,
                                           .dram_size = kPageSize,
                                           .mapping_budget = kMinMappingBudget});
  for (uint64_t chunk = 0; chunk < 256; chunk += 2)
    set_mark(*region, chunk * kPagesPerChunk, chunk + 1);
  must(region->commit(true));
  EXPECT_LE(must(region->status()).dram_resident_bytes, kPageSize);
  EXPECT_LE(kernel_mappings(*region), kMinMappingBudget);
  for (uint64_t chunk = 0; chunk < 256; ++chunk) {
    ASSERT_EQ(mark(*region, chunk * kPagesPerChunk), chunk % 2 == 0 ? chunk + 1 : 0) << chunk;
  }
}

// What layers share is copied together, so that it can be mapped.
TEST_F(EpochRegionTest, AfterASnapshotChunksAreFolded) {
  create(64 * kMiB);
  const auto region = map(kPageSize);
  for (uint64_t page = 0; page < 100; ++page) set_mark(*region, page, page + 1);
  must(region->commit(true));
  must(image().create_snapshot("before"));
  for (uint64_t page = 0; page < 50; ++page) set_mark(*region, page, page + 1001);
  finish(*region);
  checkpoint(*region);
  EXPECT_GE(must(region->prepare_demotion(kAll)), 49U);
  EXPECT_GE(must(region->barrier()).demoted_pages, 49U);
  must(region->commit_epoch());
  for (uint64_t page = 0; page < 100; ++page) {
    ASSERT_EQ(mark(*region, page), page + (page < 50 ? 1001 : 1)) << page;
  }
}

}  // namespace
}  // namespace tiering::testing
