// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/page_set.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "tests/support/test_seed.h"

namespace tiering {
namespace {

using pcow::GibIndex;
using pcow::kPagesPerSegment;
using pcow::PageIndex;

std::vector<uint64_t> members(const PageSet& set) {
  std::vector<uint64_t> result;
  set.for_each([&](PageIndex page) { result.push_back(page.value); });
  return result;
}

TEST(PageSetTest, MembersAscendAcrossGibs) {
  PageSet set;
  set.reserve(GibIndex(1));
  set.reserve(GibIndex(0));
  set.insert(PageIndex(kPagesPerSegment - 2), 4);
  set.insert(PageIndex(63), 2);
  set.insert(PageIndex(64), 1);
  EXPECT_EQ(set.size(), 6U);
  EXPECT_EQ(members(set), (std::vector<uint64_t>{63, 64, kPagesPerSegment - 2, kPagesPerSegment - 1,
                                                 kPagesPerSegment, kPagesPerSegment + 1}));
  EXPECT_TRUE(set.contains(PageIndex(64)));
  EXPECT_FALSE(set.contains(PageIndex(65)));
  EXPECT_FALSE(set.contains(PageIndex(9 * kPagesPerSegment)));
}

// Against a set of numbers: runs that begin and end anywhere.
TEST(PageSetTest, RunsComeAndGo) {
  PageSet set;
  std::set<uint64_t> expected;
  std::mt19937_64 random(test::test_seed());
  for (uint64_t gib = 0; gib < 2; ++gib) set.reserve(GibIndex(gib));
  for (int step = 0; step < 500; ++step) {
    const uint64_t first = kPagesPerSegment - 300 + random() % 600;
    const uint64_t count = random() % 200;
    const bool insert = random() % 2 == 0;
    for (uint64_t page = first; page < first + count; ++page) {
      if (insert) {
        expected.insert(page);
      } else {
        expected.erase(page);
      }
    }
    if (insert) {
      set.insert(PageIndex(first), count);
    } else {
      set.erase(PageIndex(first), count);
    }
    ASSERT_EQ(set.size(), expected.size());
  }
  EXPECT_EQ(members(set), std::vector<uint64_t>(expected.begin(), expected.end()));
  set.erase(PageIndex(0), 9 * kPagesPerSegment);
  EXPECT_TRUE(set.empty());
  set.erase(PageIndex(5 * kPagesPerSegment + 1), 3);
}

TEST(PageSetTest, TrimKeepsMembers) {
  PageSet set;
  set.reserve(GibIndex(0));
  set.insert(PageIndex(7), 1);
  set.trim(GibIndex(0));
  set.reserve(GibIndex(5));
  set.trim(GibIndex(5));
  set.trim(GibIndex(6));
  EXPECT_EQ(members(set), std::vector<uint64_t>{7});
  set.clear();
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(members(set), std::vector<uint64_t>{});
  set.reserve(GibIndex(5));
  set.insert(PageIndex(5 * kPagesPerSegment), 1);
  EXPECT_EQ(set.size(), 1U);
}

}  // namespace
}  // namespace tiering
