// SPDX-License-Identifier: BSD-3-Clause
//
// Chunks that become huge: content stays, whatever is stored to, discarded or pinned meanwhile and
// whatever fails. Where the kernel has no huge pages, or cannot move them, the tests see that
// chunks stay as they are.
#include <gtest/gtest.h>
#include <tiering/region.h>

#include <utility>
#include <vector>

#include "tests/support/huge_pages.h"
#include "tests/support/tracker_decorator.h"
#include "tests/unit/tiering/epoch_fixture.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/region_impl.h"

namespace tiering::testing {
namespace {

using pcow::ChunkIndex;
using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::PageIndex;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kChunks = 6;
constexpr uint64_t kPages = kChunks * kPagesPerChunk;
constexpr uint64_t kFirst = 2 * kPagesPerChunk;  // of the chunk that most tests are about
constexpr ChunkIndex kChunk{2};
constexpr RegionOptions kEpochs{.persistence = Persistence::kEpoch};

PageRun run(uint64_t first, uint64_t count) { return {PageIndex(first), count}; }

// What adopts pages fails, at once or after it has moved them.
class FailingTracker final : public test::TrackerDecorator {
 public:
  FailingTracker(std::unique_ptr<DirtyTracker> inner, bool late)
      : TrackerDecorator(std::move(inner)), late_(late) {}

  pcow::Result<void> adopt(AddressRange range, std::byte* from) override {
    if (late_) must(TrackerDecorator::adopt(range, from));
    return pcow::make_error(pcow::Code::kNoMemory, "as a test wants it");
  }

 private:
  bool late_;
};

// A region over an image in which page i is marked with i + 1; no page is in DRAM.
class HugeChunkTest : public ImageTest {
 protected:
  HugeChunkTest() {
    create(kChunks * kChunkSize);
    region_ = map_region(image(), kEpochs);
    for (uint64_t page = 0; page < kPages; ++page) {
      marks_.push_back(page + 1);
      set_mark(*region_, page, page + 1);
    }
    must(region_->commit(false));
    reopen();
  }
  void reopen() {
    region_.reset();
    close();
    open();
    region_ = map_region(image(), kEpochs);
  }
  void map_with(bool late) {
    region_.reset();
    auto inner = must(DirtyTracker::create(TrackerKind::kAuto, backing_of(image())));
    region_ = must(tiering::map_region(image(), kEpochs,
                                       std::make_unique<FailingTracker>(std::move(inner), late)));
  }
  void store(uint64_t page, uint64_t value) {
    guest_store(*region_, page, value);
    marks_.at(page) = value;
  }
  void discard(uint64_t first, uint64_t count) {
    must(region_->discard(first * kPageSize, count * kPageSize));
    std::fill_n(marks_.begin() + static_cast<std::ptrdiff_t>(first), count, 0);
  }
  // Whether all of them are staged.
  bool prepare(const std::vector<ChunkIndex>& chunks) {
    const PreparedMoves prepared =
        must(region_->prepare_moves({.demotions = {}, .watched = {}, .huge = chunks}));
    if (test::host_makes_huge_chunks()) {
      EXPECT_EQ(prepared.huge, chunks);
    } else {
      EXPECT_TRUE(prepared.huge.empty());
    }
    return !prepared.huge.empty();
  }
  // Returns how many became huge.
  uint64_t barrier() {
    const BarrierReport report = must(region_->barrier());
    EXPECT_FALSE(report.demotion_error);
    return report.huge_chunks;
  }
  void commit() {
    must(region_->commit_epoch());
    EXPECT_TRUE(must(region_->checkpoint(kAll)).done);
  }
  uint64_t epoch() {
    const uint64_t huge = barrier();
    commit();
    return huge;
  }
  uint64_t huge_chunks() { return must(region_->status()).huge_chunks; }
  void expect_content() {
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(mark(*region_, page), marks_[page]) << page;
    }
  }
  void expect_image() {
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(image_mark(image(), page), marks_[page]) << page;
    }
  }

  std::unique_ptr<Region> region_;
  std::vector<uint64_t> marks_;
};

TEST_F(HugeChunkTest, HoldsWhatTheCopiesAndTheImageHad) {
  store(kFirst + 7, 70);
  epoch();
  const uint64_t staged = prepare({kChunk, ChunkIndex(4)}) ? 2U : 0U;
  EXPECT_EQ(epoch(), staged);
  EXPECT_EQ(huge_chunks(), staged);
  expect_content();
  if (staged == 0) return;
  const ChunkResidency copies = must(region_->residency({PageIndex(kFirst), kPagesPerChunk})).at(0);
  EXPECT_TRUE(copies.resident.all());
  EXPECT_TRUE(copies.dirty.none()) << "the image has all of it";
  EXPECT_TRUE(copies.huge);
  EXPECT_EQ(must(region_->precopy()).found_pages, 0U);
}

TEST_F(HugeChunkTest, AStoreSplitsItAndIsTheOnlyOneThatIsFound) {
  if (!prepare({kChunk})) return;
  epoch();
  store(kFirst + 300, 1300);
  EXPECT_EQ(huge_chunks(), 0U);
  EXPECT_EQ(must(region_->precopy()).found_pages, 1U);
  epoch();
  expect_image();
  // And once more.
  ASSERT_TRUE(prepare({kChunk}));
  EXPECT_EQ(epoch(), 1U);
  EXPECT_EQ(huge_chunks(), 1U);
  expect_content();
}

TEST_F(HugeChunkTest, HasWhatWasStoredSinceItWasStaged) {
  store(kFirst, 50);
  if (!prepare({kChunk})) return;
  store(kFirst, 51);
  store(kFirst + 1, 52);
  must(region_->precopy());
  store(kFirst + kPagesPerChunk - 1, 53);
  EXPECT_EQ(epoch(), 1U);
  expect_content();
  expect_image();
  reopen();
  expect_content();
}

TEST_F(HugeChunkTest, StaysAsItIsIfMuchWasStored) {
  if (!prepare({kChunk})) return;
  for (uint64_t i = 0; i < 40; ++i) store(kFirst + 3 * i, 4000 + i);
  EXPECT_EQ(epoch(), 0U);
  EXPECT_EQ(huge_chunks(), 0U);
  expect_content();
}

TEST_F(HugeChunkTest, StaysAsItIsIfAPageIsPinned) {
  if (!prepare({kChunk})) return;
  must(region_->pin((kFirst + 9) * kPageSize, 1));
  EXPECT_EQ(epoch(), 0U);
  store(kFirst + 9, 90);  // as a device does
  must(region_->unpin((kFirst + 9) * kPageSize, 1));
  EXPECT_EQ(epoch(), 0U);
  expect_content();
  expect_image();
}

TEST_F(HugeChunkTest, HasTheStoresOfADeviceThatHadAPagePinned) {
  must(region_->pin((kFirst + 9) * kPageSize, 1));
  if (!prepare({kChunk})) return;
  store(kFirst + 9, 90);
  must(region_->unpin((kFirst + 9) * kPageSize, 1));
  epoch();
  expect_content();
  expect_image();
}

TEST_F(HugeChunkTest, WhatWasDiscardedStaysZero) {
  if (!prepare({kChunk, ChunkIndex(3), ChunkIndex(4)})) return;
  discard(kFirst + 20, 10);
  discard(3 * kPagesPerChunk, kPagesPerChunk);
  must(region_->precopy());
  discard(4 * kPagesPerChunk + 5, 1);
  epoch();
  expect_content();
  epoch();
  expect_content();
  expect_image();
}

TEST_F(HugeChunkTest, DiscardedPagesOfAHugeChunkAreZero) {
  if (!prepare({kChunk})) return;
  epoch();
  discard(kFirst + 20, 10);
  expect_content();
  epoch();
  epoch();
  expect_content();
  expect_image();
}

TEST_F(HugeChunkTest, IsMadeOfAHole) {
  discard(kFirst, kPagesPerChunk);
  epoch();
  for (uint64_t i = 0; i < kPagesPerChunk; i += 2) store(kFirst + i, 900 + i);
  epoch();
  const uint64_t mappings = kernel_mappings(*region_);
  const uint64_t staged = prepare({kChunk}) ? 1U : 0U;
  EXPECT_EQ(epoch(), staged);
  EXPECT_EQ(huge_chunks(), staged);
  EXPECT_EQ(kernel_mappings(*region_), mappings);
  expect_content();
  reopen();
  expect_content();
}

// Or a GiB of them would take more mappings than the kernel has.
TEST_F(HugeChunkTest, NeighboursAreOneMapping) {
  if (!prepare({ChunkIndex(1), kChunk, ChunkIndex(3)})) return;
  EXPECT_EQ(epoch(), 3U);
  EXPECT_EQ(huge_chunks(), 3U);
  EXPECT_EQ(kernel_mappings(*region_), 3U);
  expect_content();
}

TEST_F(HugeChunkTest, GoesBackToTheImage) {
  if (!prepare({kChunk, ChunkIndex(3)})) return;
  epoch();
  store(kFirst + 5, 55);
  epoch();
  const std::vector<PageRun> all{run(kFirst, kPagesPerChunk)};
  EXPECT_EQ(must(region_->prepare_moves({.demotions = all, .watched = {}})).demotions, all);
  EXPECT_EQ(must(region_->barrier()).demoted_pages, kPagesPerChunk);
  commit();
  EXPECT_EQ(huge_chunks(), 1U);
  EXPECT_TRUE(must(region_->residency({PageIndex(kFirst), kPagesPerChunk})).empty());
  expect_content();
  // The limit takes it as well.
  region_->set_dram_size(kPageSize);
  must(region_->prepare_demotion(kAll));
  epoch();
  EXPECT_EQ(huge_chunks(), 0U);
  EXPECT_LE(must(region_->status()).dram_resident_bytes, kPageSize);
  expect_content();
}

TEST_F(HugeChunkTest, SurvivesACrash) {
  store(kFirst + 1, 77);
  if (!prepare({kChunk})) return;
  EXPECT_EQ(epoch(), 1U);
  const std::vector<uint64_t> committed = marks_;
  store(kFirst + 2, 78);
  region_.reset();
  drop();
  open();
  region_ = map_region(image(), kEpochs);
  marks_ = committed;
  expect_content();
}

TEST_F(HugeChunkTest, KeepsItsContentWhenTheKernelFails) {
  for (const bool late : {false, true}) {
    SCOPED_TRACE(late);
    map_with(late);
    store(kFirst + 4, 44);
    if (!prepare({kChunk})) return;
    store(kFirst + 3, late ? 46 : 45);
    const BarrierReport report = must(region_->barrier());
    ASSERT_TRUE(report.demotion_error);
    EXPECT_EQ(report.demotion_error->code, pcow::Code::kNoMemory);
    EXPECT_EQ(report.huge_chunks, 0U);
    expect_content();
    commit();
    store(kFirst + 6, late ? 48 : 47);
    epoch();
    expect_content();
    expect_image();
  }
}

TEST_F(HugeChunkTest, AtMostSoManyAtATime) {
  const std::vector<ChunkIndex> all{ChunkIndex(0), ChunkIndex(1), ChunkIndex(2), ChunkIndex(3),
                                    ChunkIndex(4)};
  const PreparedMoves prepared =
      must(region_->prepare_moves({.demotions = {}, .watched = {}, .huge = all}));
  EXPECT_EQ(prepared.huge.size(), test::host_makes_huge_chunks() ? Moves::kHugeMax : 0U);
  EXPECT_EQ(epoch(), prepared.huge.size());
  expect_content();
}

TEST_F(HugeChunkTest, IsRefusedOutsideTheRegion) {
  const std::vector<ChunkIndex> beyond{ChunkIndex(kChunks)};
  const auto prepared = region_->prepare_moves({.demotions = {}, .watched = {}, .huge = beyond});
  ASSERT_FALSE(prepared);
  EXPECT_EQ(prepared.error().code, pcow::Code::kInvalid);
}

}  // namespace
}  // namespace tiering::testing
