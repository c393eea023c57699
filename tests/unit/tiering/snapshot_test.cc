// SPDX-License-Identifier: BSD-3-Clause
//
// Snapshots of an image that a region maps: what they keep, and that deleting them, with all that
// is given up and emptied, changes nothing of what the guest sees.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "tests/support/image_fixture.h"
#include "tests/unit/tiering/fixture.h"

namespace tiering::testing {
namespace {

using pcow::Code;
using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using ::testing::HasSubstr;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kSize = kGiB;

class RegionSnapshotTest : public ImageTest, public ::testing::WithParamInterface<Persistence> {
 protected:
  bool has_epochs() const { return GetParam() == Persistence::kEpoch; }
  void map(uint64_t dram_size = 0, uint32_t budget = kDefaultMappingBudget) {
    region_ = map_region(
        image(), {.persistence = GetParam(), .dram_size = dram_size, .mapping_budget = budget});
  }
  // What a barrier of the manager, or a commit of the guest at rest, does.
  void make_durable() {
    if (!has_epochs()) {
      must(region_->commit(true));
      return;
    }
    must(region_->prepare_demotion(kAll));
    must(region_->precopy());
    const BarrierReport report = must(region_->barrier());
    EXPECT_FALSE(report.demotion_error);
    must(region_->commit_epoch());
    EXPECT_TRUE(must(region_->checkpoint(kAll)).done);
  }
  void store_run(uint64_t first, uint64_t count, uint64_t value) {
    for (uint64_t i = 0; i < count; ++i) set_mark(*region_, first + i, value + i);
  }
  void expect_run(uint64_t first, uint64_t count, uint64_t value) {
    for (uint64_t i = 0; i < count; ++i)
      ASSERT_EQ(mark(*region_, first + i), value + i) << first + i;
  }
  // With everything mapped from where the image has it.
  void map_again(uint32_t budget = kDefaultMappingBudget) {
    close_all();
    open();
    map(0, budget);
  }
  // To the end, as far as that is possible without another barrier.
  pcow::DeletionReport steps(uint64_t pages_max) {
    pcow::DeletionReport report;
    while (!report.done && !report.waits) report = must(region_->continue_deletion(pages_max));
    return report;
  }
  // Of a snapshot, after everything was closed.
  uint64_t kept(const std::string& name, uint64_t page) {
    return image_mark(*must(pcow::Image::open(path(), {.snapshot = name})), page);
  }
  void close_all() {
    must(region_->commit(false));
    region_.reset();
    must(image().reclaim_unowned());
    close();
    test::expect_clean_check(path(), true);
  }

  std::unique_ptr<Region> region_;
};

INSTANTIATE_TEST_SUITE_P(Persistence, RegionSnapshotTest,
                         ::testing::Values(Persistence::kVolatile, Persistence::kEpoch),
                         [](const auto& tested) {
                           return tested.param == Persistence::kEpoch ? "Epoch" : "Volatile";
                         });

TEST_P(RegionSnapshotTest, KeepsWhatTheLastCommitMadeDurable) {
  create(64 * kMiB);
  map();
  store_run(0, 10, 100);
  make_durable();
  store_run(5, 10, 200);  // not committed
  must(region_->create_snapshot("one"));
  store_run(8, 1, 300);
  make_durable();
  must(region_->create_snapshot("two"));
  EXPECT_EQ(region_->create_snapshot("two").error().code, Code::kExists);
  const auto list = must(region_->snapshots());
  ASSERT_EQ(list.size(), 2U);
  EXPECT_LT(list[0].epoch, list[1].epoch);
  store_run(0, 20, 400);
  make_durable();
  close_all();
  EXPECT_EQ(kept("one", 4), 104U);
  EXPECT_EQ(kept("one", 5), 105U);
  EXPECT_EQ(kept("one", 12), 0U);
  EXPECT_EQ(kept("two", 4), 104U);
  EXPECT_EQ(kept("two", 8), 300U);
  EXPECT_EQ(kept("two", 14), 209U);
}

// The guest reads from a window of the snapshot's, which moves, is punched, and belongs to others.
TEST_P(RegionSnapshotTest, WindowsThatAreGivenUpAreLeftBeforeTheyAreEmptied) {
  create(kSize);
  map();
  constexpr uint64_t kOther = 7 * kPagesPerChunk;
  store_run(0, 5, 1000);
  map_again();
  must(region_->create_snapshot("one"));
  store_run(kOther, 400, 2000);
  store_run(1, 1, 3000);
  make_durable();
  make_durable();
  must(region_->begin_deletion("one"));
  EXPECT_EQ(region_->begin_deletion("one").error().code, Code::kNotFound);
  const pcow::DeletionReport report = steps(3);
  expect_run(2, 3, 1002);
  expect_run(kOther, 400, 2000);
  // The chunk that was not written to is still mapped from where the snapshot had it.
  EXPECT_TRUE(report.waits);
  EXPECT_TRUE(image().info().deleting);
  make_durable();  // at which it is mapped from elsewhere
  EXPECT_TRUE(steps(kAll).done);
  EXPECT_FALSE(image().info().deleting);
  // Whoever gets the segment now.
  store_run(11 * kPagesPerChunk, 300, 5000);
  make_durable();
  must(region_->create_snapshot("two"));
  store_run(0, 1, 6000);
  store_run(3 * kPagesPerChunk, 300, 7000);
  make_durable();
  make_durable();
  EXPECT_EQ(mark(*region_, 0), 6000U);
  EXPECT_EQ(mark(*region_, 1), 3000U);
  expect_run(2, 3, 1002);
  EXPECT_EQ(mark(*region_, 5), 0U);
  EXPECT_EQ(mark(*region_, 100), 0U);
  expect_run(kOther, 400, 2000);
  expect_run(11 * kPagesPerChunk, 300, 5000);
  close_all();
}

// Chunks that change all the time are mapped from elsewhere, too.
TEST_P(RegionSnapshotTest, AChunkThatIsStoredToIsLeftAsWell) {
  create(kSize);
  map();
  store_run(0, 300, 1000);
  map_again();
  must(region_->create_snapshot("one"));
  store_run(3 * kPagesPerChunk, 400, 2000);
  make_durable();
  must(region_->begin_deletion("one"));
  bool done = false;
  for (uint64_t round = 0; !done; ++round) {
    ASSERT_LT(round, 50U);
    store_run(round % 100, 1, 7000 + round);
    store_run(400, 1, round);
    if (has_epochs()) must(region_->precopy());
    make_durable();
    done = steps(50).done;
    EXPECT_EQ(mark(*region_, round % 100), 7000 + round);
    EXPECT_EQ(mark(*region_, 250), 1250U);
  }
  EXPECT_EQ(mark(*region_, 500), 0U);
  close_all();
}

// Chunks in the windows of two layers in turn.
TEST_P(RegionSnapshotTest, ItKeepsToTheMappingBudget) {
  create(kSize);
  map();
  for (uint64_t chunk = 0; chunk < 10; ++chunk) {
    set_mark(*region_, chunk * kPagesPerChunk, chunk + 1);
  }
  make_durable();
  must(region_->create_snapshot("one"));
  for (uint64_t chunk = 1; chunk < 10; chunk += 2) {
    set_mark(*region_, chunk * kPagesPerChunk + 1, chunk + 1000);
  }
  map_again(kMinMappingBudget);
  EXPECT_GE(kernel_mappings(*region_), 10U);
  must(region_->begin_deletion("one"));
  bool waited = false;
  for (uint64_t round = 0; round < 20; ++round) {
    const pcow::DeletionReport report = steps(100);
    if (report.done) break;
    waited = true;
    set_mark(*region_, 90 * kPagesPerChunk, round);
    make_durable();
    EXPECT_LE(must(region_->status()).mappings, kMinMappingBudget);
    EXPECT_LE(kernel_mappings(*region_), kMinMappingBudget);
    for (uint64_t chunk = 0; chunk < 10; ++chunk) {
      ASSERT_EQ(mark(*region_, chunk * kPagesPerChunk), chunk + 1);
      ASSERT_EQ(mark(*region_, chunk * kPagesPerChunk + 1), chunk % 2 == 0 ? 0 : chunk + 1000);
    }
  }
  EXPECT_TRUE(waited);
  EXPECT_FALSE(image().info().deleting);
  close_all();
}

// What waits when the image is closed is done when nobody maps it any more.
TEST_P(RegionSnapshotTest, ItEndsWhenTheImageIsOpenedAgain) {
  create(kSize);
  map();
  store_run(0, 5, 1000);
  map_again();
  must(region_->create_snapshot("one"));
  store_run(7 * kPagesPerChunk, 100, 2000);
  make_durable();
  must(region_->begin_deletion("one"));
  EXPECT_TRUE(steps(kAll).waits);
  must(region_->commit(false));
  if (!has_epochs()) {
    EXPECT_TRUE(image().info().deleting);
  }
  map_again();
  EXPECT_FALSE(image().info().deleting);
  expect_run(0, 5, 1000);
  expect_run(7 * kPagesPerChunk, 100, 2000);
  close_all();
}

class EpochSnapshotTest : public RegionSnapshotTest {};
INSTANTIATE_TEST_SUITE_P(Persistence, EpochSnapshotTest, ::testing::Values(Persistence::kEpoch));

TEST_P(EpochSnapshotTest, APartOfAnEpochIsNeverKept) {
  create(64 * kMiB);
  map();
  store_run(0, 10, 100);
  make_durable();
  const bool tracked = must(region_->status()).tracker == TrackerKind::kPagemapScan;
  store_run(0, 1, 200);
  if (tracked) {
    must(region_->precopy());
    const auto refused = region_->create_snapshot("one");
    EXPECT_EQ(refused.error().code, Code::kInvalid);
    EXPECT_THAT(refused.error().message, HasSubstr("epoch"));
  }
  must(region_->barrier());
  EXPECT_EQ(region_->create_snapshot("one").error().code, Code::kInvalid);
  EXPECT_EQ(region_->begin_deletion("one").error().code, Code::kInvalid);
  EXPECT_EQ(region_->continue_deletion(1).error().code, Code::kInvalid);
  must(region_->commit_epoch());
  must(region_->create_snapshot("one"));  // while its pages are in the log
  store_run(0, 1, 300);
  make_durable();
  close_all();
  EXPECT_EQ(kept("one", 0), 200U);
  EXPECT_EQ(kept("one", 9), 109U);
}

TEST_P(EpochSnapshotTest, APinnedChunkStaysWhereItIs) {
  create(kSize);
  map();
  store_run(0, 5, 1000);
  map_again();
  must(region_->create_snapshot("one"));
  store_run(3 * kPagesPerChunk, 100, 2000);
  make_durable();
  must(region_->pin(2 * kPageSize, 100));
  must(region_->begin_deletion("one"));
  EXPECT_TRUE(steps(kAll).waits);
  make_durable();
  EXPECT_TRUE(steps(kAll).waits);
  // As a device does, to the page that it has got at.
  set_mark(*region_, 2, 4000);
  must(region_->unpin(2 * kPageSize, 100));
  make_durable();
  make_durable();
  EXPECT_TRUE(steps(kAll).done);
  EXPECT_EQ(mark(*region_, 1), 1001U);
  EXPECT_EQ(mark(*region_, 2), 4000U);
  EXPECT_EQ(mark(*region_, 3), 1003U);
  close_all();
}

}  // namespace
}  // namespace tiering::testing
