// SPDX-License-Identifier: BSD-3-Clause
//
// A guest that gives up most of its memory at once, beside a policy that is about to promote pages.
#include <gtest/gtest.h>

#include "tests/unit/tiering/fixture.h"
#include "tiering/migration.h"

namespace tiering::testing {
namespace {

using pcow::kGiB;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kSize = 3 * kGiB;
constexpr uint64_t kHotPages = 8;

class MigrationDiscardTest : public ImageTest {
 protected:
  // With some pages in the image, and none in DRAM.
  MigrationDiscardTest() {
    create(kSize);
    map();
    for (uint64_t page = 0; page < kHotPages; ++page) set_mark(*region_, page, page + 1);
    must(region_->commit(false));
    region_.reset();
    close();
    open();
    map();
  }
  void map() { region_ = map_region(image(), {.persistence = Persistence::kEpoch}); }
  void read_all() {
    for (uint64_t page = 0; page < kHotPages; ++page) ASSERT_EQ(mark(*region_, page), page + 1);
  }

  std::unique_ptr<Region> region_;
};

TEST_F(MigrationDiscardTest, GivesUpManyGib) {
  GuardedRegion guarded(*region_);
  Migration migration(guarded, kSize, 0,
                      {.step = std::chrono::nanoseconds(0), .promoted_pages_max = 1});
  must(migration.set_parameters({.kind = PolicyKind::kHeat, .migrate_rate = 1024 * kGiB}));
  const auto epoch = [&] {
    must(migration.prepare());
    must(region_->precopy());
    const BarrierReport report = must(region_->barrier());
    migration.barrier_made(report);
    must(region_->commit_epoch());
    must(region_->checkpoint(kAll));
  };
  for (int i = 0; i < 100 && migration.statistics().promoted_pages == 0; ++i) {
    read_all();
    epoch();
  }
  ASSERT_EQ(migration.statistics().promoted_pages, 1U) << "the others wait for their turn";
  must(region_->discard(kGiB, 2 * kGiB));
  epoch();
  EXPECT_EQ(migration.statistics().failed_steps, 0U);
  read_all();
  EXPECT_EQ(mark(*region_, 2 * kGiB / pcow::kPageSize), 0U);
}

}  // namespace
}  // namespace tiering::testing
