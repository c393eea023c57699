// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/hotness/heat_tracker.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "tiering/hotness/access_window.h"
#include "tiering/hotness/heat_map.h"

namespace tiering {
namespace {

using pcow::ChunkIndex;
using pcow::kPagesPerChunk;
using pcow::PageIndex;

constexpr double kHeat = PageRecord::kHeatMax;

PageRecord record_of(const HeatTracker& tracker, uint64_t page) {
  const auto frozen = tracker.freeze();
  const uint32_t* words = frozen.words(ChunkIndex(page / kPagesPerChunk));
  return words == nullptr ? PageRecord() : PageRecord(words[page % kPagesPerChunk]);
}

// Ages a record by epochs that had an access (1) or not (0), of reads.
PageRecord age(const Aging& aging, PageRecord record, const std::string& epochs) {
  for (const char epoch : epochs) {
    const uint32_t read = epoch == '1' ? PageRecord::kRead : 0;
    record = aging.aged(PageRecord(record.word() | read), Aging::Reads::kWatched);
  }
  return record;
}

// Some epochs of the same kind, then another.
std::string pattern(uint64_t hits, uint64_t misses) {
  return std::string(hits, '1') + std::string(misses, '0');
}

std::string repeated(const std::string& epochs, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += epochs;
  return result;
}

TEST(PageRecordTest, FieldsDoNotTouchEachOther) {
  const PageRecord record(PageRecord::Fields{.heat = PageRecord::kHeatMax,
                                             .visits = 0,
                                             .run = PageRecord::kRunMax,
                                             .hit = false,
                                             .cool_down = 0,
                                             .last_read = true});
  EXPECT_EQ(record.heat(), PageRecord::kHeatMax);
  EXPECT_EQ(record.visits(), 0U);
  EXPECT_EQ(record.run(), PageRecord::kRunMax);
  EXPECT_FALSE(record.hit());
  EXPECT_EQ(record.idle(), PageRecord::kRunMax);
  EXPECT_EQ(record.cool_down(), 0U);
  EXPECT_TRUE(record.last_read());
  EXPECT_FALSE(record.accessed());
  const PageRecord cooling = record.with_cool_down(PageRecord::kCoolDownMax);
  EXPECT_EQ(cooling.heat(), PageRecord::kHeatMax);
  EXPECT_EQ(cooling.cool_down(), PageRecord::kCoolDownMax);
  EXPECT_FALSE(cooling.hit());
  EXPECT_TRUE(cooling.last_read());
  EXPECT_EQ(cooling.with_cool_down(2).cool_down(), 2U);
}

TEST(PageRecordTest, HeatIsTheShareOfEpochsWithAnAccess) {
  const Aging aging;
  const PageRecord half = age(aging, {}, repeated("10", 100));
  const PageRecord most = age(aging, {}, repeated("111111111111111111110", 20));
  EXPECT_NEAR(half.heat(), kHeat / 2, kHeat / 16);
  EXPECT_NEAR(most.heat(), kHeat * 20 / 21, kHeat / 16);
  EXPECT_EQ(age(aging, {}, pattern(200, 0)).heat(), PageRecord::kHeatMax);
}

TEST(PageRecordTest, EvenDifferencesOfAFewPercentShow) {
  const Aging aging;
  const PageRecord better = age(aging, {}, repeated("11111111111111111110", 12));
  const PageRecord worse = age(aging, {}, repeated("111111110", 27));
  EXPECT_GT(better.heat(), worse.heat());
}

TEST(PageRecordTest, ARunThatTheEstimateHardlyAllowsStartsAnew) {
  const Aging aging;
  const PageRecord settled = age(aging, {}, pattern(100, 0));
  EXPECT_LE(age(aging, settled, "0").heat(), PageRecord::kHeatMax / 3);
  const PageRecord cold = age(aging, {}, repeated("100000000000", 12));
  const PageRecord woken = age(aging, cold, "11");
  EXPECT_GE(woken.heat(), PageRecord::kHeatMax / 2);
  EXPECT_LE(woken.visits(), 2U);
  // A single access wakes nobody.
  EXPECT_LE(age(aging, cold, "1").heat(), PageRecord::kHeatMax / 4);
}

TEST(PageRecordTest, MissesAreAllowedWhereTheyAreUsual) {
  const Aging aging;
  const PageRecord usual = age(aging, {}, repeated("1110", 40));
  const PageRecord after = age(aging, usual, "1110");
  EXPECT_NEAR(after.heat(), usual.heat(), kHeat / 32);
  EXPECT_GE(after.visits(), usual.visits());
}

TEST(PageRecordTest, IdlePagesAreForgotten) {
  const Aging aging;
  EXPECT_FALSE(age(aging, {}, pattern(100, 200)).known());
  EXPECT_FALSE(age(aging, {}, pattern(1, 100)).known());
}

TEST(PageRecordTest, UnwatchedReadsAreNoSignOfIdleness) {
  const Aging aging;
  const PageRecord read = age(aging, {}, "1110");
  EXPECT_EQ(aging.aged(read, Aging::Reads::kUnwatched).word(), read.word());
  EXPECT_EQ(aging.aged(read, Aging::Reads::kWatched).idle(), 2U);
  EXPECT_EQ(aging.aged(read.with_cool_down(3), Aging::Reads::kUnwatched).cool_down(), 2U);
  PageRecord doubted = age(aging, {}, pattern(100, 0));
  doubted = aging.aged(doubted, Aging::Reads::kDoubted);
  EXPECT_GT(doubted.heat(), PageRecord::kHeatMax * 9 / 10);
  for (int epoch = 0; epoch < 1000; ++epoch) doubted = aging.aged(doubted, Aging::Reads::kDoubted);
  EXPECT_FALSE(doubted.known());
  const PageRecord written = aging.aged(PageRecord(PageRecord::kWritten), Aging::Reads::kWatched);
  EXPECT_FALSE(written.last_read());
  EXPECT_EQ(aging.aged(written, Aging::Reads::kUnwatched).idle(), 1U);
}

TEST(HeatTrackerTest, NotesBecomeHeatAtTheEndOfTheEpoch) {
  HeatTracker tracker(4, on_onetbb);
  tracker.note_written(PageIndex(kPagesPerChunk - 1), 2);  // across a chunk's end
  tracker.note_read(PageIndex(5), 1);
  tracker.end_of_epoch();
  EXPECT_EQ(record_of(tracker, kPagesPerChunk - 1).visits(), 1U);
  EXPECT_EQ(record_of(tracker, kPagesPerChunk).visits(), 1U);
  EXPECT_EQ(record_of(tracker, kPagesPerChunk + 1).visits(), 0U);
  EXPECT_TRUE(record_of(tracker, 5).last_read());
  EXPECT_GT(record_of(tracker, 5).heat(), 0U);
}

TEST(HeatTrackerTest, UnwatchedChunksAgeNowAndThen) {
  HeatTracker tracker(1, on_onetbb);
  tracker.note_read(PageIndex(0), 1);
  tracker.end_of_epoch();
  for (uint64_t epoch = 2; epoch < HeatTracker::kUnwatchedAging; ++epoch) tracker.end_of_epoch();
  const uint32_t heat = record_of(tracker, 0).heat();
  EXPECT_EQ(record_of(tracker, 0).idle(), 0U);
  tracker.end_of_epoch();
  EXPECT_LT(record_of(tracker, 0).heat(), heat);
  EXPECT_EQ(record_of(tracker, 0).idle(), 0U);
  tracker.watch_reads(ChunkIndex(0));
  tracker.end_of_epoch();
  EXPECT_EQ(record_of(tracker, 0).idle(), 1U);
}

// Nobody sees reads of a page in DRAM: it keeps its heat, also in a chunk that is watched.
TEST(HeatTrackerTest, ReadsInDramAreNotMissed) {
  for (const Parallel parallel : {on_onetbb, on_this_thread}) {
    HeatTracker tracker(8, parallel);
    std::vector<ChunkResidency> unseen(2);
    unseen[0].chunk = ChunkIndex(1);
    unseen[1].chunk = ChunkIndex(5);
    unseen[1].resident.set(0);
    const PageIndex in_dram = first_page(ChunkIndex(5));
    for (int epoch = 0; epoch < 4; ++epoch) {
      tracker.note_read(in_dram, 2);
      tracker.watch_reads(ChunkIndex(5));
      tracker.end_of_epoch();
    }
    const uint32_t heat = record_of(tracker, in_dram.value).heat();
    tracker.watch_reads(ChunkIndex(5));
    tracker.end_of_epoch(unseen);
    EXPECT_EQ(record_of(tracker, in_dram.value).heat(), heat);
    EXPECT_EQ(record_of(tracker, in_dram.value).idle(), 0U);
    EXPECT_LT(record_of(tracker, in_dram.value + 1).heat(), heat);
    // What is written is always seen.
    tracker.note_written(in_dram, 1);
    tracker.end_of_epoch(unseen);
    tracker.end_of_epoch(unseen);
    EXPECT_EQ(record_of(tracker, in_dram.value).idle(), 1U);
  }
}

TEST(HeatTrackerTest, SumsWhatTheHeatLetsExpect) {
  HeatTracker tracker(4, on_onetbb);
  EXPECT_EQ(tracker.end_of_epoch().all, 0U);
  std::vector<ChunkResidency> in_dram(1);
  in_dram[0].chunk = ChunkIndex(3);
  in_dram[0].resident.set(1);
  ExpectedAccesses expected;
  for (int epoch = 0; epoch < 50; ++epoch) {
    tracker.note_written(PageIndex(0), 1);
    tracker.note_written(first_page(ChunkIndex(3)), 3);
    expected = tracker.end_of_epoch(in_dram);
  }
  EXPECT_EQ(expected.unseen, record_of(tracker, 3 * kPagesPerChunk + 1).heat());
  EXPECT_EQ(expected.all, 4 * expected.unseen);
  EXPECT_GT(expected.unseen, PageRecord::kHeatMax / 2);
}

TEST(HeatTrackerTest, WhatIsForgottenCostsNothing) {
  HeatTracker tracker(4, on_this_thread);
  const uint64_t empty = tracker.memory_bytes();
  tracker.forget(PageIndex(0), 4 * kPagesPerChunk);
  EXPECT_EQ(tracker.memory_bytes(), empty);
  tracker.note_written(PageIndex(kPagesPerChunk - 2), 4);  // across a chunk's end
  tracker.note_moved(PageIndex(kPagesPerChunk + 1), 1, 3);
  tracker.end_of_epoch();
  tracker.forget(PageIndex(kPagesPerChunk - 1), 2);
  EXPECT_GT(record_of(tracker, kPagesPerChunk - 2).heat(), 0U);
  EXPECT_FALSE(record_of(tracker, kPagesPerChunk - 1).known());
  EXPECT_FALSE(record_of(tracker, kPagesPerChunk).known());
  EXPECT_GT(record_of(tracker, kPagesPerChunk + 1).heat(), 0U);
  tracker.forget(PageIndex(0), 4 * kPagesPerChunk);
  tracker.end_of_epoch();
  EXPECT_EQ(tracker.memory_bytes(), empty);
}

TEST(HeatTrackerTest, MemoryFollowsWhatIsAccessed) {
  constexpr uint64_t kChunks = pcow::kTiB / pcow::kChunkSize;
  HeatTracker tracker(kChunks, on_onetbb);
  const uint64_t empty = tracker.memory_bytes();
  EXPECT_LE(empty, 8 * pcow::kMiB);
  for (uint64_t chunk = 0; chunk < kChunks / 100; ++chunk) {
    tracker.note_written(pcow::first_page(ChunkIndex(chunk)), kPagesPerChunk);
  }
  tracker.end_of_epoch();
  // 1 % of 1 TiB, four bytes a page.
  EXPECT_EQ(tracker.memory_bytes() - empty, kChunks / 100 * kPagesPerChunk * 4);
  for (int epoch = 0; epoch < 100; ++epoch) tracker.end_of_epoch();
  EXPECT_EQ(tracker.memory_bytes(), empty);
}

TEST(HeatTrackerTest, SnapshotJoinsRecordsAndResidency) {
  HeatTracker tracker(8, on_onetbb);
  tracker.note_read(first_page(ChunkIndex(3)), 1);
  tracker.note_moved(first_page(ChunkIndex(6)), 1, 5);  // and one epoch passes
  tracker.end_of_epoch();
  std::vector<ChunkResidency> residency(2);
  residency[0].chunk = ChunkIndex(1);
  residency[0].resident.set(7);
  residency[1].chunk = ChunkIndex(3);
  const auto frozen = tracker.freeze();
  const std::vector<ChunkView> views = frozen.snapshot(residency);
  ASSERT_EQ(views.size(), 3U);
  EXPECT_EQ(views[0].in_dram.chunk, ChunkIndex(1));
  EXPECT_EQ(views[0].words, nullptr);
  EXPECT_TRUE(views[0].in_dram.resident[7]);
  EXPECT_EQ(views[1].in_dram.chunk, ChunkIndex(3));
  EXPECT_EQ(views[1].record(0).visits(), 1U);
  EXPECT_EQ(views[1].least_idle, 0U);
  EXPECT_EQ(views[2].in_dram.chunk, ChunkIndex(6));
  EXPECT_EQ(views[2].record(0).cool_down(), 4U);
}

TEST(HeatTrackerTest, NotesFromManyThreadsBesideEpochsAndSnapshots) {
  constexpr uint64_t kChunks = 64;
  constexpr int kRounds = 200;
  HeatTracker tracker(kChunks, on_onetbb);
  const auto feed = [&](uint64_t start) {
    for (uint64_t i = 0; i < kRounds; ++i) {
      const PageIndex page((start + i * 977) % (kChunks * kPagesPerChunk - 8));
      tracker.note_written(page, 8);
      tracker.note_read(page, 3);
      tracker.note_moved(page, 1, 2);
      tracker.watch_reads(chunk_of(page));
    }
  };
  std::thread one(feed, 0);
  std::thread two(feed, 4);
  for (int i = 0; i < 50; ++i) {
    tracker.end_of_epoch();
    const auto frozen = tracker.freeze();
    uint64_t known = 0;
    for (const ChunkView& view : frozen.snapshot({})) {
      for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
        if (view.record(page).known()) ++known;
      }
    }
    const HeatMap map = heat_map(frozen, 16);
    uint64_t mapped = 0;
    for (const HeatCell& cell : map.cells) mapped += cell.known_pages;
    EXPECT_EQ(mapped, known);
  }
  one.join();
  two.join();
  tracker.note_written(PageIndex(3), 1);
  tracker.end_of_epoch();
  EXPECT_EQ(record_of(tracker, 3).idle(), 0U);
}

// A chunk in DRAM of which so many pages were accessed in the last epoch.
class WindowScene {
 public:
  explicit WindowScene(uint64_t accessed_percent) {
    view_.words = words_.data();
    view_.in_dram.resident.set();
    for (uint64_t i = 0; i < kPagesPerChunk * accessed_percent / 100; ++i) {
      words_.at(i) = PageRecord(PageRecord::Fields{.run = 1, .hit = true}).word();
    }
  }
  Snapshot snapshot() const { return {&view_, 1}; }

 private:
  std::array<uint32_t, kPagesPerChunk> words_{};
  ChunkView view_;
};

TEST(AccessWindowTest, FollowsTheShareThatIsSeen) {
  const WindowScene most(AccessWindow::kSeenHigh + 3);
  const WindowScene some((AccessWindow::kSeenHigh + AccessWindow::kSeenLow) / 2);
  const WindowScene few(AccessWindow::kSeenLow - 3);
  AccessWindow window;
  window.adapt(few.snapshot());
  EXPECT_EQ(window.percent(), 100U);
  for (int epoch = 0; epoch < 5; ++epoch) window.adapt(most.snapshot());
  const uint32_t shrunk = window.percent();
  EXPECT_LT(shrunk, 60U);
  window.adapt(some.snapshot());
  window.adapt({});
  EXPECT_EQ(window.percent(), shrunk);
  window.adapt(few.snapshot());
  EXPECT_GT(window.percent(), shrunk);
  for (int epoch = 0; epoch < 200; ++epoch) window.adapt(most.snapshot());
  EXPECT_EQ(window.percent(), 1U);
  for (int epoch = 0; epoch < 200; ++epoch) window.adapt(few.snapshot());
  EXPECT_EQ(window.percent(), 100U);
}

TEST(HeatMapTest, TextAndJson) {
  HeatTracker tracker(130, on_onetbb);
  for (int epoch = 0; epoch < 100; ++epoch) {
    tracker.note_written(PageIndex(0), 1);
    tracker.end_of_epoch();
  }
  tracker.note_written(PageIndex(0), 1);
  tracker.note_written(first_page(ChunkIndex(129)), 2);
  tracker.end_of_epoch();
  const HeatMap map = heat_map(tracker.freeze(), 65);
  EXPECT_EQ(map.chunks_per_cell, 2U);
  EXPECT_EQ(heat_map_text(map), "000000000000 9" + std::string(63, '.') + "\n000010000000 5\n");
  const std::string json = heat_map_json(map);
  EXPECT_EQ(
      json.find("{\"epochs\":101,\"chunk-size\":2097152,\"chunks\":130,"
                "\"chunks-per-cell\":2,\"heat-max\":4095,\"cells\":[{\"cell\":0,\"pages\":1,"),
      0U);
  EXPECT_NE(json.find(",{\"cell\":64,\"pages\":2,"), std::string::npos);
}

}  // namespace
}  // namespace tiering
