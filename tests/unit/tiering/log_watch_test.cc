// SPDX-License-Identifier: BSD-3-Clause
//
// Whether what is dirty fits in the log: the policy, and the kernel's counter that it goes by.
#include "tiering/log_watch.h"

#include <gtest/gtest.h>
#include <pcow/units.h>

#include <cstring>
#include <limits>

#include "tests/unit/tiering/fixture.h"
#include "tiering/address_space.h"
#include "tiering/kernel/page_faults.h"

namespace tiering::testing {
namespace {

using pcow::kPageSize;
using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(LogWatchTest, EveryFaultSinceTheLookMayBeADirtyPage) {
  LogWatch watch;
  watch.look({.room_pages = 1000, .dirty_pages = 100, .faults = 5000});
  EXPECT_EQ(watch.dirty_bound(5000), 100U);
  EXPECT_FALSE(watch.ends_epoch(5233)) << "a third of the room";
  EXPECT_TRUE(watch.ends_epoch(5234));
  EXPECT_FALSE(watch.stops_guest(5566)) << "two thirds of the room";
  EXPECT_TRUE(watch.stops_guest(5567));
  watch.look({.room_pages = 1000, .dirty_pages = 0, .faults = 5567});
  EXPECT_FALSE(watch.ends_epoch(5567)) << "they were loads";
}

TEST(LogWatchTest, NoMoreThanAllPagesAreDirty) {
  LogWatch watch;
  watch.look({.room_pages = 1000, .dirty_pages = 100, .faults = 0, .pages_max = 300});
  EXPECT_EQ(watch.dirty_bound(200), 300U);
  EXPECT_EQ(watch.dirty_bound(1'000'000), 300U);
  EXPECT_FALSE(watch.ends_epoch(1'000'000));
  watch.look({.room_pages = 1000, .dirty_pages = 310, .faults = 0, .pages_max = 300});
  EXPECT_EQ(watch.dirty_bound(5), 310U) << "pinned ones are counted twice";
}

TEST(LogWatchTest, WithoutRoomAnyPageIsTooMany) {
  LogWatch watch;
  watch.look({.room_pages = 0, .dirty_pages = 0, .faults = 7});
  EXPECT_FALSE(watch.stops_guest(7));
  EXPECT_TRUE(watch.stops_guest(8));
}

TEST(LogWatchTest, CountersDoNotWrap) {
  LogWatch watch;
  watch.look({.room_pages = 1000, .dirty_pages = 10, .faults = 100});
  EXPECT_EQ(watch.dirty_bound(99), 10U) << "read in another order";
  EXPECT_EQ(watch.dirty_bound(std::numeric_limits<uint64_t>::max()),
            std::numeric_limits<uint64_t>::max() - 90);
  watch.look({.room_pages = 1000, .dirty_pages = 200, .faults = 100});
  EXPECT_EQ(watch.dirty_bound(std::numeric_limits<uint64_t>::max()),
            std::numeric_limits<uint64_t>::max());
}

TEST(LogWatchTest, TheNearerTheLineTheSoonerItIsLookedAgain) {
  LogWatch watch;
  watch.look({.room_pages = 6000, .dirty_pages = 0, .faults = 0});
  EXPECT_EQ(watch.pause(0), microseconds(500)) << "2,000 pages of 250 ns";
  EXPECT_EQ(watch.pause(1000), microseconds(250));
  EXPECT_EQ(watch.pause(2000), microseconds(50));
  EXPECT_EQ(watch.pause(2400), microseconds(400)) << "to the next line";
  EXPECT_EQ(watch.pause(1'000'000), microseconds(50));
  watch.look({.room_pages = 1'000'000, .dirty_pages = 0, .faults = 0});
  EXPECT_EQ(watch.pause(0), milliseconds(4));
}

TEST(PageFaultsTest, AStoreToAPageThatWasNotThereIsCounted) {
  constexpr uint64_t kPages = 300;
  const AddressSpace space = must(AddressSpace::map(kPages * kPageSize, pcow::kPageSize));
  const uint64_t before = kernel::page_faults();
  for (uint64_t page = 0; page < kPages; ++page) {
    std::memset(space.at(page * kPageSize), 1, 1);
  }
  const uint64_t after = kernel::page_faults();
  EXPECT_GE(after, before + kPages);
}

}  // namespace
}  // namespace tiering::testing
