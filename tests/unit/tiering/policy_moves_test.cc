// SPDX-License-Identifier: BSD-3-Clause
//
// What a policy sees of a region, and its moves: content stays, only what was chosen moves, and
// what was stored to since does not.
#include <gtest/gtest.h>
#include <tiering/region.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "tests/unit/tiering/epoch_fixture.h"
#include "tests/unit/tiering/fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering::testing {
namespace {

using pcow::ChunkIndex;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using pcow::PageIndex;
using Pages = std::set<uint64_t>;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kPages = 8 * kPagesPerChunk;

PageRun run(uint64_t first, uint64_t count) { return {PageIndex(first), count}; }

void insert(Pages& pages, PageRun run) {
  for (uint64_t i = 0; i < run.count; ++i) pages.insert(run.first.value + i);
}

Pages pages_of(const std::vector<PageRun>& runs) {
  Pages pages;
  for (const PageRun& each : runs) insert(pages, each);
  return pages;
}

std::vector<ChunkResidency> residency_of(Region& region) {
  return must(region.residency({PageIndex(0), region.size() / kPageSize}));
}

// A region of 16 MiB over an image in which page i is marked with i + 1, and no page is in DRAM.
class PolicyMovesTest : public ImageTest {
 protected:
  PolicyMovesTest() {
    create(kPages * kPageSize);
    map();
    for (uint64_t page = 0; page < kPages; ++page) set_mark(*region_, page, page + 1);
    must(region_->commit(false));
    region_.reset();
    close();
    open();
    map();
  }
  void map() { region_ = map_region(image(), {.persistence = Persistence::kEpoch}); }

  BarrierReport epoch() {
    const BarrierReport report = must(region_->barrier());
    EXPECT_FALSE(report.demotion_error);
    must(region_->commit_epoch());
    EXPECT_TRUE(must(region_->checkpoint(kAll)).done);
    return report;
  }
  PreparedMoves prepare(const std::vector<PageRun>& demotions,
                        const std::vector<ChunkIndex>& watched = {}, uint64_t pages_max = kAll) {
    return must(region_->prepare_moves(
        {.demotions = demotions, .watched = watched, .watched_pages_max = pages_max}));
  }
  Pages in_dram() {
    Pages pages;
    for (const ChunkResidency& chunk : residency_of(*region_)) {
      for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
        if (chunk.resident[i]) pages.insert(pcow::first_page(chunk.chunk).value + i);
      }
    }
    return pages;
  }
  Pages collected() {
    Pages pages;
    region_->for_each_collected([&](PageRun each) { insert(pages, each); });
    return pages;
  }
  Pages discarded() {
    Pages pages;
    region_->for_each_discarded([&](PageRun each) { insert(pages, each); });
    return pages;
  }
  void discard(uint64_t first, uint64_t count) {
    must(region_->discard(first * kPageSize, count * kPageSize));
  }
  Pages mapped(uint64_t chunk) {
    Pages pages;
    must(region_->mapped_pages(ChunkIndex(chunk), [&](PageRun each) { insert(pages, each); }));
    return pages;
  }
  // Of a chunk that nobody asked to be unmapped. A file system with DAX may do so by itself, all of
  // the file, when something is stored: xfs does.
  void expect_mapped(uint64_t chunk) {
    const size_t pages = mapped(chunk).size();
    if (pages == 0 && image().file(0).dax) return;
    EXPECT_EQ(pages, kPagesPerChunk);
  }
  void read(uint64_t first, uint64_t count) {
    for (uint64_t page = first; page < first + count; ++page) {
      ASSERT_EQ(mark(*region_, page), page + 1) << page;
    }
  }

  std::unique_ptr<Region> region_;
};

TEST_F(PolicyMovesTest, APromotionKeepsTheContentAndLogsNothing) {
  EXPECT_EQ(in_dram(), Pages{});
  EXPECT_EQ(must(region_->promote(run(10, 20))), 20U);
  EXPECT_EQ(in_dram(), pages_of({run(10, 20)}));
  read(0, 64);
  const PrecopyReport copied = must(region_->precopy());
  EXPECT_EQ(copied.found_pages, 20U);
  EXPECT_EQ(copied.logged_bytes, 0U) << "no line differs";
  EXPECT_EQ(epoch().logged_bytes, 0U);
  // Clean copies from now on, which may go again.
  EXPECT_EQ(pages_of(prepare({run(12, 3)}).demotions), pages_of({run(12, 3)}));
  EXPECT_EQ(epoch().demoted_pages, 3U);
  EXPECT_EQ(in_dram(), pages_of({run(10, 2), run(15, 15)}));
  read(0, 64);
}

TEST_F(PolicyMovesTest, APromotionOfACopyIsNone) {
  guest_store(*region_, 7, 70);
  epoch();
  EXPECT_EQ(must(region_->promote(run(6, 3))), 3U);
  EXPECT_EQ(mark(*region_, 7), 70U);
  epoch();
  EXPECT_EQ(image_mark(image(), 7), 70U);
  EXPECT_EQ(image_mark(image(), 6), 7U);
}

TEST_F(PolicyMovesTest, NamesTheChunksThatMayBeRead) {
  const uint64_t chunks = kPages / kPagesPerChunk;
  EXPECT_EQ(region_->cached_chunks(ChunkIndex(0), 100).size(), chunks);
  EXPECT_EQ(region_->cached_chunks(ChunkIndex(2), 3),
            (std::vector{ChunkIndex(2), ChunkIndex(3), ChunkIndex(4)}));
  EXPECT_TRUE(region_->cached_chunks(ChunkIndex(chunks), 3).empty());
}

// While the guest stores to the very pages: all stores count.
TEST_F(PolicyMovesTest, APromotionBesideStoresLosesNone) {
  constexpr uint64_t kRounds = 300;
  std::atomic<bool> go = false;
  std::atomic<uint64_t> behind = 0;
  std::thread guest([&] {
    while (!go) std::this_thread::yield();
    for (uint64_t round = 1; round <= kRounds; ++round) {
      for (uint64_t page = 0; page < 64; ++page) guest_store(*region_, page, round * 1000 + page);
      behind = round;
    }
  });
  go = true;
  uint64_t promotions = 0;
  while (behind < kRounds) {
    must(region_->promote(run(0, 64)));
    ++promotions;
  }
  guest.join();
  EXPECT_GT(promotions, 0U);
  for (uint64_t page = 0; page < 64; ++page) {
    ASSERT_EQ(mark(*region_, page), kRounds * 1000 + page) << page;
  }
  epoch();
  for (uint64_t page = 0; page < 64; ++page) {
    ASSERT_EQ(image_mark(image(), page), kRounds * 1000 + page) << page;
  }
}

TEST_F(PolicyMovesTest, OnlyWhatWasChosenGoes) {
  for (uint64_t page = 0; page < 100; ++page) guest_store(*region_, page, page + 1);
  epoch();
  guest_store(*region_, 20, 2020);  // dirty when it is planned
  const PreparedMoves prepared = prepare({run(10, 20), run(kPagesPerChunk, 4)});
  EXPECT_EQ(prepared.unstored_pages, 1U + 4U) << "one dirty, four not in DRAM";
  Pages going = pages_of({run(10, 20)});
  going.erase(20);
  EXPECT_EQ(pages_of(prepared.demotions), going);
  guest_store(*region_, 11, 1111);  // after the plan, found by a round
  must(region_->precopy());
  guest_store(*region_, 12, 1212);  // found by the barrier
  must(region_->pin(13 * kPageSize, 1));
  const BarrierReport report = epoch();
  EXPECT_EQ(report.demoted_pages, 16U);
  EXPECT_EQ(report.kept_pages, 3U);
  must(region_->unpin(13 * kPageSize, 1));
  Pages left = pages_of({run(0, 10), run(30, 70)});
  left.insert({11, 12, 13, 20});
  EXPECT_EQ(in_dram(), left);
  EXPECT_EQ(mark(*region_, 11), 1111U);
  EXPECT_EQ(mark(*region_, 12), 1212U);
  EXPECT_EQ(mark(*region_, 20), 2020U);
  read(0, 10);
  read(21, 100);
}

TEST_F(PolicyMovesTest, WhatIsInTheLogIsNotDropped) {
  for (uint64_t page = 0; page < 8; ++page) guest_store(*region_, page, page + 50);
  must(region_->barrier());
  must(region_->commit_epoch());  // and no checkpoint
  EXPECT_EQ(prepare({run(0, 8)}).unstored_pages, 8U);
  EXPECT_EQ(residency_of(*region_).at(0).dirty.count(), 8U);
  EXPECT_EQ(epoch().demoted_pages, 0U);
  EXPECT_EQ(residency_of(*region_).at(0).dirty.count(), 0U);
  for (uint64_t page = 0; page < 8; ++page) ASSERT_EQ(mark(*region_, page), page + 50);
}

TEST_F(PolicyMovesTest, SeesWhatIsRead) {
  read(0, kPages);
  EXPECT_EQ(mapped(0).size(), kPagesPerChunk);
  guest_store(*region_, 5, 500);  // a copy, not to be unmapped
  const PreparedMoves prepared = prepare({}, {ChunkIndex(0), ChunkIndex(2)});
  ASSERT_EQ(prepared.watched.size(), 2U);
  EXPECT_EQ(prepared.watched[0].mapped_pages, kPagesPerChunk - 1);
  guest_store(*region_, 6, 600);  // since the plan
  const BarrierReport report = epoch();
  EXPECT_EQ(report.unmapped_pages, 2 * kPagesPerChunk - 2);
  EXPECT_EQ(report.demoted_pages, 0U);
  EXPECT_EQ(mapped(0), Pages{});
  EXPECT_EQ(mapped(2), Pages{});
  expect_mapped(1);
  EXPECT_EQ(mark(*region_, 5), 500U);
  EXPECT_EQ(mark(*region_, 6), 600U);
  read(7, 3);
  read(2 * kPagesPerChunk + 100, 1);
  EXPECT_EQ(mapped(0), (Pages{7, 8, 9}));
  EXPECT_EQ(mapped(2), Pages{2 * kPagesPerChunk + 100});
  EXPECT_EQ(in_dram(), (Pages{5, 6}));
}

TEST_F(PolicyMovesTest, WatchesAsMuchAsItMay) {
  read(0, 2 * kPagesPerChunk);
  const std::vector chunks = {ChunkIndex(0), ChunkIndex(1), ChunkIndex(3)};
  EXPECT_EQ(prepare({}, chunks, kPagesPerChunk).watched.size(), 1U);
  EXPECT_EQ(prepare({}, chunks, 2 * kPagesPerChunk).watched.size(), 3U) << "3 has no page mapped";
  // A guest that does nothing is stopped for that once.
  EXPECT_FALSE(must(region_->precopy()).idle);
  EXPECT_EQ(epoch().unmapped_pages, 2 * kPagesPerChunk);
  prepare({}, chunks);
  EXPECT_TRUE(must(region_->precopy()).idle);
}

TEST_F(PolicyMovesTest, TellsWherePagesAre) {
  guest_store(*region_, 3, 30);
  must(region_->promote(run(4, 1)));
  epoch();
  guest_store(*region_, 4, 40);
  must(region_->pin(4 * kPageSize, 1));
  std::vector<PlacedRun> expected = {
      {.run = run(0, 3), .place = PagePlace::kImage},
      {.run = run(3, 1), .place = PagePlace::kDram},
      {.run = run(4, 1), .place = PagePlace::kDram, .dirty = true, .pinned = true},
      {.run = run(5, kPages - 5), .place = PagePlace::kImage}};
  EXPECT_EQ(must(region_->places(run(0, kPages))), expected);
  expected = {{.run = run(600, 1), .place = PagePlace::kImage}};
  EXPECT_EQ(must(region_->places(run(600, 1))), expected);
  must(region_->unpin(4 * kPageSize, 1));
  EXPECT_EQ(collected(), (Pages{3, 4}));
  prepare({});
  EXPECT_EQ(collected(), Pages{});
}

// Nothing promotes what was discarded, and its zeros leave DRAM whatever else moves.
TEST_F(PolicyMovesTest, WhatIsDiscardedDoesNotComeBack) {
  must(region_->promote(run(10, 10)));
  epoch();
  prepare({});
  discard(12, 4);                           // zeros in DRAM, until the image has them
  discard(kPagesPerChunk, kPagesPerChunk);  // a hole
  EXPECT_EQ(must(region_->places(run(kPagesPerChunk, 1))).at(0).place, PagePlace::kHole);
  EXPECT_EQ(must(region_->promote(run(kPagesPerChunk, kPagesPerChunk))), 0U);
  must(region_->precopy());
  Pages gone = pages_of({run(12, 4), run(kPagesPerChunk, kPagesPerChunk)});
  EXPECT_EQ(discarded(), gone);
  EXPECT_EQ(collected(), Pages{}) << "nobody stored anything";
  guest_store(*region_, 13, 130);
  epoch();
  gone.erase(13);
  EXPECT_EQ(discarded(), gone);
  EXPECT_EQ(collected(), Pages{13});

  EXPECT_EQ(pages_of(prepare({run(12, 1)}).demotions), Pages{12});
  EXPECT_EQ(discarded(), Pages{});
  EXPECT_EQ(epoch().demoted_pages, 3U) << "each once";
  EXPECT_EQ(in_dram(), (Pages{10, 11, 13, 16, 17, 18, 19}));
  discard(12, 1);  // and again
  epoch();
  EXPECT_EQ(discarded(), Pages{12});
  EXPECT_EQ(collected(), Pages{});
  region_.reset();
  drop();
  open();
  for (uint64_t page = 0; page < kPages; ++page) {
    const uint64_t kept = gone.contains(page) ? 0 : page + 1;
    ASSERT_EQ(image_mark(image(), page), page == 13 ? 130 : kept) << page;
  }
}

// Its windows may be others then, and the guest has waited long enough.
TEST_F(PolicyMovesTest, AnEpochThatBeginsAgainMovesNothing) {
  region_.reset();
  ImageDecorator full(image());
  full.failure = pcow::Code::kLogFull;
  region_ = map_region(full, {.persistence = Persistence::kEpoch});
  must(region_->promote(run(0, 100)));
  epoch();
  read(kPagesPerChunk, kPagesPerChunk);
  prepare({run(0, 100)}, {ChunkIndex(1)});
  guest_store(*region_, 200, 201);
  full.fail_log_in = 1;
  BarrierReport report = epoch();
  EXPECT_EQ(report.restarts, 1U);
  EXPECT_EQ(report.demoted_pages, 0U);
  EXPECT_EQ(report.unmapped_pages, 0U);
  expect_mapped(1);
  EXPECT_EQ(in_dram().size(), 101U);
  read(0, kPages);
  prepare({run(0, 100)}, {ChunkIndex(1)});
  report = epoch();
  EXPECT_EQ(report.demoted_pages, 100U);
  EXPECT_EQ(report.unmapped_pages, kPagesPerChunk);
  read(0, kPages);
  region_.reset();
}

TEST_F(PolicyMovesTest, WhatIsNotInTheRegionIsRefused) {
  EXPECT_EQ(region_->promote(run(kPages, 1)).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region_->promote(run(kPages - 1, 2)).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region_->places(run(1, kAll * 2)).error().code, pcow::Code::kInvalid);
  EXPECT_EQ(region_->mapped_pages(ChunkIndex(8), [](PageRun) {}).error().code,
            pcow::Code::kInvalid);
  must(region_->barrier());
  EXPECT_EQ(region_->prepare_moves({}).error().code, pcow::Code::kInvalid) << "not committed yet";
  must(region_->commit_epoch());
}

// A region over an image without content.
class HolePolicyMovesTest : public ImageTest {
 protected:
  HolePolicyMovesTest() {
    create(8 * kMiB);
    region_ = map_region(image(), {.persistence = Persistence::kEpoch});
  }
  BarrierReport epoch() {
    const BarrierReport report = must(region_->barrier());
    EXPECT_FALSE(report.demotion_error);
    must(region_->commit_epoch());
    must(region_->checkpoint(kAll));
    return report;
  }
  PreparedMoves prepare(const std::vector<PageRun>& demotions) {
    return must(region_->prepare_moves({.demotions = demotions, .watched = {}}));
  }

  std::unique_ptr<Region> region_;
};

TEST_F(HolePolicyMovesTest, HolesAreNeitherPromotedNorRead) {
  EXPECT_EQ(mark(*region_, 3), 0U);
  EXPECT_EQ(must(region_->promote(run(0, 2 * kPagesPerChunk))), 0U);
  EXPECT_EQ(must(region_->status()).dram_resident_bytes, 0U);
  EXPECT_TRUE(region_->cached_chunks(ChunkIndex(0), 100).empty());
  must(region_->mapped_pages(ChunkIndex(0), [](PageRun) { ADD_FAILURE() << "the zero page"; }));
  const std::vector<PlacedRun> hole = {{.run = run(0, 4 * kPagesPerChunk)}};
  EXPECT_EQ(must(region_->places(run(0, 4 * kPagesPerChunk))), hole);
}

// Copies in a hole of the region go when its chunk is mapped from its window, and what stays is
// stored anew: so only where more go than stay.
TEST_F(HolePolicyMovesTest, OfAHoleOnlyGoesWhatWasChosen) {
  for (uint64_t page = 0; page < 10; ++page) set_mark(*region_, page, page + 1);
  epoch();
  PreparedMoves prepared = prepare({run(0, 4)});
  EXPECT_EQ(prepared.unmovable_pages, 4U);
  EXPECT_TRUE(prepared.demotions.empty());
  set_mark(*region_, 7, 70);  // dirty when it is planned
  prepared = prepare({run(0, 6)});
  EXPECT_EQ(prepared.unmovable_pages, 0U);
  EXPECT_EQ(pages_of(prepared.demotions), pages_of({run(0, 6)}));
  set_mark(*region_, 2, 20);  // chosen, and stored to since
  must(region_->precopy());
  set_mark(*region_, 8, 80);    // not chosen, nor collected yet
  set_mark(*region_, 12, 120);  // no copy was there
  const BarrierReport report = epoch();
  EXPECT_EQ(report.demoted_pages, 5U);
  EXPECT_EQ(report.kept_pages, 1U);
  EXPECT_EQ(must(region_->status()).cached_chunks, 1U);
  const std::vector<uint64_t> values = {1, 2, 20, 4, 5, 6, 7, 70, 80, 10, 0, 0, 120};
  const Pages left = {2, 6, 7, 8, 9, 12};
  EXPECT_EQ(residency_of(*region_).at(0).resident.count(), left.size());
  for (uint64_t page = 0; page < values.size(); ++page) {
    EXPECT_EQ(residency_of(*region_).at(0).resident[page], left.contains(page)) << page;
    ASSERT_EQ(mark(*region_, page), values[page]) << page;
  }
  epoch();
  // As after a crash.
  region_.reset();
  drop();
  open();
  for (uint64_t page = 0; page < values.size(); ++page) {
    ASSERT_EQ(image_mark(image(), page), values[page]) << page;
  }
}

// Of a window in which there is nothing, while the image is not told.
TEST_F(HolePolicyMovesTest, NothingIsPromotedOfWhatHasJustBeenDiscarded) {
  for (uint64_t page = 0; page < 10; ++page) set_mark(*region_, page, page + 1);
  epoch();
  prepare({run(0, 10)});
  EXPECT_EQ(epoch().demoted_pages, 10U);
  must(region_->discard(100 * kPageSize, 5 * kPageSize));
  EXPECT_EQ(must(region_->promote(run(98, 9))), 4U);
  EXPECT_EQ(residency_of(*region_).at(0).resident.count(), 4U);
  must(region_->discard(98 * kPageSize, 2 * kPageSize));
  epoch();
  EXPECT_EQ(residency_of(*region_).at(0).resident.count(), 2U);
  for (uint64_t page = 0; page < 200; ++page) {
    ASSERT_EQ(mark(*region_, page), page < 10 ? page + 1 : 0) << page;
  }
}

TEST_F(HolePolicyMovesTest, AHoleWithAPinnedPageStays) {
  for (uint64_t page = 0; page < 10; ++page) set_mark(*region_, page, page + 1);
  epoch();
  EXPECT_EQ(pages_of(prepare({run(0, 9)}).demotions), pages_of({run(0, 9)}));
  must(region_->pin(100 * kPageSize, 1));
  EXPECT_EQ(epoch().demoted_pages, 0U);
  must(region_->unpin(100 * kPageSize, 1));
  EXPECT_EQ(residency_of(*region_).at(0).resident.count(), 10U);
  for (uint64_t page = 0; page < 10; ++page) ASSERT_EQ(mark(*region_, page), page + 1) << page;
}

// One barrier stores few pages anew: the rest of the chunks is for later ones.
TEST_F(HolePolicyMovesTest, ABarrierStoresFewPagesAnew) {
  std::vector<PageRun> chosen;
  for (uint64_t chunk = 0; chunk < 4; ++chunk) {
    for (uint64_t page = 0; page < 200; ++page) {
      set_mark(*region_, chunk * kPagesPerChunk + page, page + 1);
    }
    chosen.push_back(run(chunk * kPagesPerChunk, 150));
  }
  epoch();
  EXPECT_EQ(prepare(chosen).unmovable_pages, 2 * 150U);
  EXPECT_EQ(epoch().demoted_pages, 2 * 150U);
  EXPECT_EQ(prepare(chosen).unmovable_pages, 0U);
  EXPECT_EQ(epoch().demoted_pages, 2 * 150U);
  EXPECT_EQ(must(region_->status()).dram_resident_bytes, 4 * 50 * kPageSize);
  for (uint64_t chunk = 0; chunk < 4; ++chunk) {
    for (uint64_t page = 0; page < 200; ++page) {
      ASSERT_EQ(mark(*region_, chunk * kPagesPerChunk + page), page + 1);
    }
  }
}

TEST_F(HolePolicyMovesTest, AVolatileRegionMovesAtCommitsAlone) {
  region_.reset();
  drop();
  open();
  region_ = map_region(image());
  EXPECT_EQ(region_->prepare_moves({}).error().code, pcow::Code::kInvalid);
  set_mark(*region_, 1, 1);
  must(region_->commit(true));
  region_->set_dram_size(kPageSize);
  for (uint64_t page = 0; page < 10; ++page) set_mark(*region_, page, page + 1);
  EXPECT_GE(must(region_->commit(true)).demoted_pages, 9U);
}

}  // namespace
}  // namespace tiering::testing
