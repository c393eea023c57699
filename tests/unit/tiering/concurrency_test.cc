// SPDX-License-Identifier: BSD-3-Clause
//
// Readers may run while a region commits and demotes: they see the same content whatever is mapped
// under them. Meant for ThreadSanitizer as well.
#include <tiering/region.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/support/test_seed.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/dirty_tracker.h"

namespace tiering::testing {
namespace {

using pcow::kMiB;
using pcow::kPageSize;

class ConcurrencyTest : public ImageTest {};

// A guest's load. ThreadSanitizer takes mapping over a range for a store to it; for the processor
// it is not: a load finds the old mapping or waits for the new one.
__attribute__((no_sanitize("thread"))) uint64_t guest_load(const Region& region, uint64_t page) {
  static_assert(kMarkOffset % sizeof(uint64_t) == 0);
  const std::byte* at = region.base() + page * kPageSize + kMarkOffset;
  return *reinterpret_cast<const volatile uint64_t*>(at);
}

TEST_F(ConcurrencyTest, ReadersSeeStableContentDuringCommitAndDemotion) {
  constexpr uint64_t kPages = 128 * kMiB / kPageSize;
  create(128 * kMiB);
  const auto region = map_region(image(), {.dram_size = 4 * kMiB});
  std::mt19937_64 random(test::test_seed());
  for (int round = 0; round < 4; ++round) {
    for (uint64_t i = 0; i < 4000; ++i) {
      const uint64_t page = random() % kPages;
      set_mark(*region, page, page + 1);
    }
    std::vector<uint64_t> expected(kPages);
    for (uint64_t page = 0; page < kPages; ++page) expected[page] = mark(*region, page);
    std::atomic<bool> done{false};
    std::atomic<uint64_t> wrong{0};
    std::vector<std::thread> readers;
    readers.reserve(2);
    for (uint64_t id = 0; id < 2; ++id) {
      readers.emplace_back([&, seed = random()] {
        std::mt19937_64 own(seed);
        do {
          const uint64_t page = own() % kPages;
          wrong += guest_load(*region, page) == expected[page] ? 0U : 1U;
        } while (!done);
      });
    }
    must(region->commit(true));
    must(region->commit(true));
    done = true;
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(wrong, 0U);
  }
}

// Beyond the contract, but what pre-copying will rest on: a store that races with a commit without
// demotion is either in the image or still dirty, so that the next quiet commit has it. Reading a
// page while it is stored to is the race itself, so not for ThreadSanitizer; soft-dirty bits cannot
// do it.
#ifndef __SANITIZE_THREAD__
TEST_F(ConcurrencyTest, AStoreThatRacesWithACommitIsNotLost) {
  constexpr uint64_t kPages = 2000;
  create(64 * kMiB);
  const auto region = map_region(image(), {.dram_size = kMiB});
  if (must(region->status()).tracker != TrackerKind::kPagemapScan) {
    EXPECT_FALSE(DirtyTracker::create(TrackerKind::kPagemapScan, Backing::kPageCache));
    return;
  }
  for (int round = 0; round < 5; ++round) {
    std::atomic<bool> done{false};
    std::thread writer([&, seed = test::test_seed()] {
      std::mt19937_64 own(seed);
      while (!done) set_mark(*region, own() % kPages, own());
    });
    for (int i = 0; i < 20; ++i) must(region->commit(false));
    done = true;
    writer.join();
    must(region->commit(true));
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(image_mark(image(), page), mark(*region, page)) << "page " << page;
    }
  }
}
#endif

}  // namespace
}  // namespace tiering::testing
