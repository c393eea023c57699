// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/page_entry.h"

#include <gtest/gtest.h>
#include <array>
#include <utility>
#include <vector>

namespace tiering {
namespace {

using kernel::kEntryExclusive;
using kernel::kEntryFile;
using kernel::kEntryPresent;
using kernel::kEntrySoftDirty;
using kernel::kEntrySwapped;

constexpr uint64_t kCopy = kEntryPresent | kEntryExclusive | kEntrySoftDirty;
constexpr uint64_t kDaxPage = kEntryPresent;
constexpr uint64_t kFilePage = kEntryPresent | kEntryExclusive | kEntryFile;

TEST(PageEntryTest, OnlyCopiesAreCopies) {
  EXPECT_TRUE(is_private_copy(kCopy));
  EXPECT_TRUE(is_private_copy(kEntrySwapped)) << "swapped out";
  EXPECT_FALSE(is_private_copy(0)) << "nothing";
  EXPECT_FALSE(is_private_copy(kDaxPage)) << "a DAX page, or the zero page";
  EXPECT_FALSE(is_private_copy(kFilePage));
  EXPECT_FALSE(is_private_copy(kEntryPresent | kEntryFile)) << "a file's page that others map";
  EXPECT_FALSE(is_private_copy(kEntrySwapped | kEntryFile)) << "a page of tmpfs on its way";
}

using Runs = std::vector<std::pair<size_t, size_t>>;

Runs runs_of(std::span<const uint64_t> entries) {
  Runs runs;
  const auto add = [&](size_t first, size_t count) -> pcow::Result<void> {
    runs.emplace_back(first, count);
    return {};
  };
  EXPECT_TRUE(for_each_private_run(entries, add));
  return runs;
}

TEST(PageEntryTest, RunsAreTheLongestThereAre) {
  EXPECT_EQ(runs_of({}), Runs{});
  EXPECT_EQ(runs_of(std::array{kDaxPage, uint64_t{0}}), Runs{});
  EXPECT_EQ(runs_of(std::array{kCopy, kCopy, kDaxPage, kCopy, uint64_t{0}, kEntrySwapped, kCopy}),
            (Runs{{0, 2}, {3, 1}, {5, 2}}));
}

TEST(PageEntryTest, TheFirstFailureEndsIt) {
  const std::array entries{kCopy, kDaxPage, kCopy};
  int calls = 0;
  const auto fail = [&](size_t, size_t) -> pcow::Result<void> {
    ++calls;
    return pcow::make_error(pcow::Code::kIo, "no");
  };
  EXPECT_FALSE(for_each_private_run(entries, fail));
  EXPECT_EQ(calls, 1);
}

}  // namespace
}  // namespace tiering
