// SPDX-License-Identifier: BSD-3-Clause
#include <sys/mman.h>
#include <tiering/region.h>

#include <random>
#include <vector>

#include "tests/support/test_seed.h"
#include "tests/unit/tiering/fixture.h"
#include "tests/unit/tiering/image_decorator.h"
#include "tests/unit/tiering/unsure_tracker.h"

namespace tiering::testing {
namespace {

using pcow::kChunkSize;
using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;

class RegionTest : public ImageTest {
 protected:
  // Whether the page table alone does not tell which pages were written.
  bool compares(const Region& region) {
    return must(region.status()).tracker == TrackerKind::kSoftDirty;
  }
};

TEST_F(RegionTest, AnEmptyImageIsOneHole) {
  create(2 * kGiB + 2 * kMiB);
  const auto region = map_region(image());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->base()) % kGiB, 0U);
  EXPECT_EQ(region->size(), 2 * kGiB + 2 * kMiB);
  const RegionStatus status = must(region->status());
  EXPECT_EQ(status.hole_chunks, 1025U);
  EXPECT_EQ(status.cached_chunks, 0U);
  EXPECT_EQ(status.dram_resident_bytes, 0U);
  EXPECT_EQ(status.dirty_bytes, 0U);
  EXPECT_EQ(status.mappings, 1U);
  EXPECT_EQ(status.mapping_budget, kDefaultMappingBudget);
}

TEST_F(RegionTest, ASmallRegionIsAlignedToItsChunks) {
  create(6 * kMiB);
  const auto region = map_region(image());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(region->base()) % kChunkSize, 0U);
}

// The pages of a base are mapped from its own file, and never stored to.
TEST_F(RegionTest, AGuestRunsOnABase) {
  create(64 * kMiB);
  {
    const auto region = map_region(image());
    for (uint64_t page = 0; page < 4 * kPagesPerChunk; page += 8) set_mark(*region, page, page + 1);
    must(region->commit(true));
  }
  close();
  const std::string clone = path() + ".clone";
  const pcow::OpenOptions options{.access = pcow::Access::kReadWrite,
                                  .base = pcow::BaseAccess::kFollow};
  must(pcow::Image::create(clone, {.base = pcow::Base{path(), pcow::BaseFormat::kPcow}}));
  const auto expected = [](uint64_t page) {
    if (page == 8 || page == 9) return 1000 + page;
    if (page == 16) return uint64_t{0};
    return page % 8 == 0 ? page + 1 : 0;
  };
  {
    const auto image = must(pcow::Image::open(clone, options));
    const auto region = map_region(*image, {.dram_size = kPageSize});
    EXPECT_EQ(must(region->status()).cached_chunks, 4U);
    EXPECT_EQ(image->info().allocated_bytes, 0U) << "nothing is copied to run on a base";
    EXPECT_EQ(mark(*region, 8), 9U);
    set_mark(*region, 8, 1008);
    set_mark(*region, 9, 1009);
    set_mark(*region, 16, 0);
    const CommitReport report = must(region->commit(true));
    EXPECT_GE(report.demoted_pages, 2U);
    EXPECT_LE(must(region->status()).dram_resident_bytes, kPageSize);
    for (uint64_t page = 0; page < 5 * kPagesPerChunk; ++page) {
      ASSERT_EQ(mark(*region, page), page < 4 * kPagesPerChunk ? expected(page) : 0U) << page;
    }
    // Of the chunk that both have pages of, all are copied; of the others none.
    EXPECT_LE(image->info().allocated_bytes, (kPagesPerChunk / 8 + 2) * kPageSize);
    must(image->close());
  }
  open();
  EXPECT_EQ(image_mark(image(), 8), 9U);
  EXPECT_EQ(image_mark(image(), 9), 0U);
  EXPECT_EQ(image_mark(image(), 16), 17U);
}

TEST_F(RegionTest, CommittedPagesSurviveAndUncommittedOnesDoNot) {
  create(64 * kMiB);
  {
    auto region = map_region(image());
    set_mark(*region, 7, 70);
    set_mark(*region, 8000, 80);
    EXPECT_EQ(must(region->status()).dirty_bytes, 2 * kPageSize);
    const CommitReport report = must(region->commit(false));
    EXPECT_EQ(report.scanned_pages, 2U);
    EXPECT_EQ(report.written_pages, 2U);
    EXPECT_EQ(report.demoted_pages, 0U);
    EXPECT_EQ(must(region->status()).dirty_bytes, 0U);
    set_mark(*region, 9, 90);
  }
  close();
  open();
  const auto region = map_region(image());
  EXPECT_EQ(must(region->status()).cached_chunks, 2U);
  EXPECT_EQ(mark(*region, 7), 70U);
  EXPECT_EQ(mark(*region, 8000), 80U);
  EXPECT_EQ(mark(*region, 9), 0U);
}

TEST_F(RegionTest, EveryCommitIsANewEpochAndWritesOnlyWhatChanged) {
  create(8 * kMiB);
  const auto region = map_region(image());
  for (uint64_t page = 0; page < 100; ++page) set_mark(*region, page, page + 1);
  const CommitReport first = must(region->commit(false));
  set_mark(*region, 50, 500);
  const CommitReport second = must(region->commit(false));
  EXPECT_GT(second.epoch, first.epoch);
  EXPECT_EQ(second.written_pages, 1U);
  EXPECT_EQ(must(region->commit(false)).scanned_pages, 0U);
  EXPECT_EQ(image_mark(image(), 50), 500U);
  EXPECT_EQ(image_mark(image(), 51), 52U);
}

TEST_F(RegionTest, ReadingIsNotWriting) {
  create(64 * kMiB);
  {
    const auto region = map_region(image());
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) set_mark(*region, page, 1);
    must(region->commit(false));
  }
  const auto region = map_region(image());
  uint64_t sum = 0;
  for (uint64_t page = 0; page < 2 * kPagesPerChunk; ++page) sum += mark(*region, page);
  EXPECT_EQ(sum, kPagesPerChunk);
  const RegionStatus status = must(region->status());
  EXPECT_EQ(status.dirty_bytes, 0U);
  EXPECT_EQ(status.dram_resident_bytes, 0U);
  EXPECT_EQ(must(region->commit(true)).written_pages, 0U);
}

TEST_F(RegionTest, ZeroPagesStayOrBecomeHoles) {
  create(8 * kMiB);
  const auto region = map_region(image(), {.dram_size = kPageSize});
  set_mark(*region, 1, 0);  // written, still all zero
  set_mark(*region, 2, 5);
  // Where candidates are compared first, a zero page equals the hole and never gets that far.
  EXPECT_EQ(must(region->commit(true)).zero_pages, compares(*region) ? 0U : 1U);
  EXPECT_EQ(image().info().allocated_bytes, kPageSize);
  const uint64_t before = image().info().disk_bytes;
  set_mark(*region, 2, 0);
  EXPECT_EQ(must(region->commit(true)).zero_pages, 1U);
  EXPECT_LE(image().info().disk_bytes, before - kPageSize);
  EXPECT_EQ(mark(*region, 2), 0U);
}

TEST_F(RegionTest, DemotionHonoursDramSizeAndKeepsContent) {
  constexpr uint64_t kSize = 96 * kMiB;
  create(kSize);
  const uint64_t limit = 8 * kMiB;
  const auto region = map_region(image(), {.dram_size = limit});
  std::mt19937_64 random(test::test_seed());
  std::vector<uint64_t> oracle(kSize / kPageSize);
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 4000; ++i) {
      const uint64_t page = random() % oracle.size();
      oracle[page] = random() % 5 == 0 ? 0 : random();
      set_mark(*region, page, oracle[page]);
    }
    const CommitReport report = must(region->commit(true));
    EXPECT_GT(report.demoted_pages, 0U);
    const RegionStatus status = must(region->status());
    EXPECT_LE(status.dram_resident_bytes, limit);
    EXPECT_EQ(status.dirty_bytes, 0U);
    EXPECT_GE(status.mappings, kernel_mappings(*region));
    for (uint64_t page = 0; page < oracle.size(); ++page) {
      ASSERT_EQ(mark(*region, page), oracle[page]) << "page " << page << ", round " << round;
    }
  }
}

// What a snapshot keeps stays mapped where it is; what is written later goes elsewhere.
TEST_F(RegionTest, DemotionGoesOnAfterASnapshot) {
  create(64 * kMiB);
  const auto region = map_region(image(), {.dram_size = kPageSize});
  for (uint64_t page = 0; page < 4 * kPagesPerChunk; page += 8) set_mark(*region, page, page + 1);
  must(region->commit(true));
  must(image().create_snapshot("one"));
  // Chunk 0: a page that the snapshot has and one that it has not; chunk 2: all pages; 3: none.
  set_mark(*region, 8, 1000);
  set_mark(*region, 9, 1001);
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    set_mark(*region, 2 * kPagesPerChunk + page, 2000 + page);
  }
  set_mark(*region, 5 * kPagesPerChunk, 5000);
  const CommitReport report = must(region->commit(true));
  EXPECT_GE(report.demoted_pages, 2U + kPagesPerChunk);
  EXPECT_LE(must(region->status()).dram_resident_bytes, kPageSize);
  const auto expect_content = [](const Region& found) {
    for (uint64_t page = 0; page < 6 * kPagesPerChunk; ++page) {
      const uint64_t chunk = page / kPagesPerChunk;
      uint64_t value = chunk < 4 && page % 8 == 0 ? page + 1 : 0;
      if (page == 8 || page == 9) value = 1000 + page - 8;
      if (chunk == 2) value = 2000 + page % kPagesPerChunk;
      if (page == 5 * kPagesPerChunk) value = 5000;
      ASSERT_EQ(mark(found, page), value) << "page " << page;
    }
  };
  expect_content(*region);
  must(region->commit(true));
  close();
  {
    pcow::OpenOptions options;
    options.snapshot = "one";
    const auto snapshot = must(pcow::Image::open(path(), options));
    EXPECT_EQ(image_mark(*snapshot, 8), 9U);
    EXPECT_EQ(image_mark(*snapshot, 9), 0U);
    EXPECT_EQ(image_mark(*snapshot, 2 * kPagesPerChunk), 2 * kPagesPerChunk + 1);
    EXPECT_EQ(image_mark(*snapshot, 5 * kPagesPerChunk), 0U);
  }
  open();
  expect_content(*map_region(image()));
}

// The layers alternate from chunk to chunk: more pieces than the budget has mappings.
TEST_F(RegionTest, LayersInManyPiecesAreCopiedTogether) {
  create(2 * kGiB);
  constexpr uint64_t kChunks = 200;
  {
    const auto region = map_region(image());
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
      set_mark(*region, chunk * kPagesPerChunk, chunk + 1);
    }
    must(region->commit(true));
    must(image().create_snapshot("one"));
    for (uint64_t chunk = 0; chunk < kChunks; chunk += 2) {
      set_mark(*region, chunk * kPagesPerChunk, chunk + 1000);
    }
    must(region->commit(true));
  }
  const auto region = map_region(image(), {.mapping_budget = kMinMappingBudget});
  EXPECT_LE(must(region->status()).mappings, kMinMappingBudget);
  for (uint64_t chunk = 0; chunk < kChunks; ++chunk) {
    EXPECT_EQ(mark(*region, chunk * kPagesPerChunk), chunk + (chunk % 2 == 0 ? 1000 : 1));
  }
}

// A full medium keeps shared chunks in DRAM, and the commit is good all the same.
TEST_F(RegionTest, WhatCannotBeCopiedTogetherStaysInDram) {
  create(64 * kMiB);
  ImageDecorator decorated(image());
  const auto region = map_region(decorated, {.dram_size = kPageSize});
  for (uint64_t page = 0; page < 100; ++page) set_mark(*region, page, page + 1);
  must(region->commit(true));
  must(image().create_snapshot("one"));
  for (uint64_t page = 0; page < 10; ++page) set_mark(*region, page, page + 1000);
  decorated.failure = pcow::Code::kNoSpace;
  decorated.fail_fold_in = 1;
  EXPECT_EQ(must(region->commit(true)).demoted_pages, 0U);
  EXPECT_EQ(must(region->status()).dram_resident_bytes, 10 * kPageSize);
  EXPECT_GE(must(region->commit(true)).demoted_pages, 9U);
  for (uint64_t page = 0; page < 100; ++page) {
    EXPECT_EQ(mark(*region, page), page + (page < 10 ? 1000 : 1));
  }
}

TEST_F(RegionTest, WithoutDemotionEverythingStaysInDram) {
  create(64 * kMiB);
  const auto region = map_region(image(), {.dram_size = kMiB});
  for (uint64_t page = 0; page < 1000; ++page) set_mark(*region, page, page + 1);
  must(region->commit(false));
  EXPECT_EQ(must(region->status()).dram_resident_bytes, 1000 * kPageSize);
  EXPECT_EQ(must(region->status()).cached_chunks, 0U);
}

TEST_F(RegionTest, DemotedHolesBecomeCachedAndAreTracked) {
  create(64 * kMiB);
  const auto region = map_region(image(), {.dram_size = kPageSize});
  set_mark(*region, 3, 30);
  must(region->commit(true));
  EXPECT_EQ(must(region->status()).cached_chunks, 0U);  // one page fits
  set_mark(*region, 4, 40);
  must(region->commit(true));
  const RegionStatus demoted = must(region->status());
  EXPECT_EQ(demoted.cached_chunks, 1U);
  EXPECT_EQ(demoted.dram_resident_bytes, 0U);
  EXPECT_EQ(mark(*region, 3), 30U);
  set_mark(*region, 3, 31);
  EXPECT_EQ(must(region->status()).dirty_bytes, kPageSize);
  EXPECT_EQ(must(region->commit(true)).written_pages, 1U);
  EXPECT_EQ(image_mark(image(), 3), 31U);
}

// Thin provisioning on a medium where reading a hole allocates: what the guest only read is given
// back.
TEST_F(RegionTest, ReadingHolesDoesNotKeepFileSpace) {
  constexpr uint64_t kSize = 256 * kMiB;
  constexpr uint64_t kChunks = kSize / kChunkSize;
  create(kSize);
  {
    const auto region = map_region(image());
    for (uint64_t chunk = 0; chunk < kChunks; ++chunk) set_mark(*region, chunk * kPagesPerChunk, 1);
    must(region->commit(false));
  }
  const uint64_t before = image().info().disk_bytes;
  const auto region = map_region(image());
  uint64_t sum = 0;
  for (uint64_t page = 0; page < kSize / kPageSize; page += 2) sum += mark(*region, page);
  EXPECT_EQ(sum, kChunks);
  must(region->commit(true));  // 128 MiB of holes were read: reclaimed on the way
  EXPECT_LT(image().info().disk_bytes, before + 64 * kMiB);
  must(image().reclaim_unowned());
  EXPECT_LE(image().info().disk_bytes, before);
  EXPECT_EQ(image().info().allocated_bytes, kChunks * kPageSize);
}

// A tracker may report pages that are clean.
TEST_F(RegionTest, OnlyPagesThatDifferAreWrittenIfTheTrackerIsUnsure) {
  create(8 * kMiB);
  ImageDecorator counting(image());
  const auto region = must(map_region(counting, {.dram_size = kMiB}, unsure_tracker(image())));
  for (uint64_t page = 0; page < 300; ++page) set_mark(*region, page, page + 1);
  must(region->commit(true));
  EXPECT_EQ(counting.pages_written, 300U);
  for (uint64_t page = 0; page < 300; ++page) set_mark(*region, page, page + 1);
  set_mark(*region, 200, 7);
  const CommitReport report = must(region->commit(true));
  EXPECT_EQ(report.written_pages, 1U);
  EXPECT_EQ(counting.pages_written, 301U);
  for (uint64_t page = 0; page < 300; ++page) {
    ASSERT_EQ(mark(*region, page), page == 200 ? 7 : page + 1);
  }
}

// On DAX the entries of the page table tell what a scan does not.
TEST_F(RegionTest, OnDaxPagesThatWereReadAreNotDirty) {
  create(64 * kMiB);
  ImageDecorator dax(image());
  dax.granularity = pcow::Granularity::kCacheLine;
  const auto region = map_region(dax, {.dram_size = kPageSize});
  for (uint64_t page = 0; page < 300; ++page) set_mark(*region, page, page + 1);
  EXPECT_EQ(must(region->commit(true)).demoted_pages, 300U);
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    ASSERT_EQ(mark(*region, page), page < 300 ? page + 1 : 0);
  }
  EXPECT_EQ(must(region->status()).dirty_bytes, 0U);
  EXPECT_EQ(must(region->status()).dram_resident_bytes, 0U);
  set_mark(*region, 7, 1000);
  EXPECT_EQ(must(region->commit(false)).scanned_pages, 1U);
}

TEST_F(RegionTest, AttributesCanBeAppliedAfterAHostChangedThem) {
  create(kGiB);
  const auto region = map_region(image(), {.dram_size = kPageSize, .dump = false});
  for (uint64_t chunk = 0; chunk < 512; chunk += 4) {
    set_mark(*region, chunk * kPagesPerChunk, chunk + 1);
  }
  must(region->commit(true));
  const uint64_t mappings = kernel_mappings(*region);
  EXPECT_EQ(must(region->status()).mappings, mappings);
  // As QEMU does to all guest memory.
  ASSERT_EQ(madvise(region->base(), region->size(), MADV_HUGEPAGE), 0);
  ASSERT_EQ(madvise(region->base(), region->size(), MADV_DODUMP), 0);
  must(region->apply_attributes());
  EXPECT_EQ(kernel_mappings(*region), mappings);
  // A hole must stay thin: one page, not 2 MiB.
  set_mark(*region, 1 * kPagesPerChunk, 1);
  EXPECT_LE(must(region->status()).dram_resident_bytes, 2 * kPageSize);
}

TEST_F(RegionTest, BudgetOutsideItsLimitsIsRefused) {
  create(8 * kMiB);
  const auto small = Region::map(image(), {.mapping_budget = 4});
  ASSERT_FALSE(small);
  EXPECT_EQ(small.error().code, pcow::Code::kInvalid);
  EXPECT_NE(small.error().message.find("mapping-budget=4"), std::string::npos);
  const auto large = Region::map(image(), {.mapping_budget = 4000000});
  ASSERT_FALSE(large);
  EXPECT_NE(large.error().message.find("vm.max_map_count"), std::string::npos);
}

TEST_F(RegionTest, PlacementIsCheckedAndApplied) {
  create(8 * kMiB);
  const auto absent =
      Region::map(image(), {.placement = {.policy = numa::Policy::kBind, .nodes = {900}}});
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().code, pcow::Code::kInvalid);
  EXPECT_NE(absent.error().message.find("host-nodes=900"), std::string::npos);
  const auto nodeless = Region::map(image(), {.placement = {.policy = numa::Policy::kBind}});
  ASSERT_FALSE(nodeless);
  EXPECT_NE(nodeless.error().message.find("policy=bind needs nodes"), std::string::npos);
  const auto policyless = Region::map(image(), {.placement = {.nodes = {0}}});
  ASSERT_FALSE(policyless);
  const auto region =
      map_region(image(), {.placement = {.policy = numa::Policy::kBind, .nodes = {0}}});
  set_mark(*region, 1, 1);
  EXPECT_EQ(must(region->commit(true)).written_pages, 1U);
}

}  // namespace
}  // namespace tiering::testing
