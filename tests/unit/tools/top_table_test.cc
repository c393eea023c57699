// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/top_table.h"

#include <gtest/gtest.h>

#include <limits>

namespace tierctl {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

Json node() {
  return Json::parse(R"({"id": "pm0", "dram-resident": 536870912, "dram-size": 1073741824,
    "dirty": 8192, "changed": 1048576, "stored": {"log": 4096, "checkpoint": 4096, "pages": 0},
    "epochs": {"epochs": 100, "held-ns": 0,
               "pauses": [{"up-to-ns": 100000, "count": 99}, {"up-to-ns": 9000000, "count": 1}]},
    "moves": {"promoted-pages": 10, "demoted-pages": 20, "hit-per-mille": 957}})");
}

Json nodes(const Json& one) { return Json::array({one}); }

TEST(TopTable, TellsRates) {
  Json now = node();
  now["changed"] = 1048576 + 4 * 1048576;
  now["stored"]["log"] = 4096 + 2 * 1048576;
  now["epochs"]["epochs"] = 120;
  now["epochs"]["held-ns"] = 500'000'000;
  now["moves"]["promoted-pages"] = 10 + 512;
  const Json activity = activity_of(nodes(node()), nodes(now), seconds(2));
  ASSERT_EQ(activity.size(), 1U);
  EXPECT_EQ(activity[0], Json::parse(R"({"id": "pm0", "dram-resident": 536870912,
    "dram-size": 1073741824, "dirty": 8192, "hit-per-mille": 957, "stored-per-s": 1048576,
    "changed-per-s": 2097152, "promoted-per-s": 1048576, "demoted-per-s": 0, "epochs-per-s": 10,
    "held-ns-per-s": 250000000})"));
  const std::string lines = top_lines(activity);
  EXPECT_EQ(lines.size(), top_titles().size());
  for (const char* cell : {"512 MiB", "50 %", "96 %", "8 KiB", "2 MiB", "1 MiB", "25 %"}) {
    EXPECT_NE(lines.find(cell), std::string::npos) << cell << " in " << lines;
  }
}

// Not the longest since the guest began.
TEST(TopTable, TellsThePausesInBetween) {
  Json now = node();
  now["epochs"]["pauses"] = Json::parse(
      R"([{"up-to-ns": 100000, "count": 101}, {"up-to-ns": 200000, "count": 150},
          {"up-to-ns": 9000000, "count": 1}])");
  const Json activity = activity_of(nodes(node()), nodes(now), seconds(1));
  EXPECT_EQ(activity[0]["pause-p99-ns"], 200000U);
}

TEST(TopTable, LeavesOutWhatIsNotTold) {
  const Json before = Json::parse(R"({"id": "pm0"})");
  const Json activity = activity_of(nodes(before), nodes(node()), seconds(1));
  EXPECT_FALSE(activity[0].contains("changed-per-s"));
  EXPECT_FALSE(activity[0].contains("stored-per-s"));
  EXPECT_EQ(activity_of(nodes(before), nodes(before), seconds(1)), nodes(before));
}

// The guest was started anew in between.
TEST(TopTable, LeavesOutCountersThatBeganAgain) {
  Json now = node();
  now["changed"] = 4096;
  const Json activity = activity_of(nodes(node()), nodes(now), seconds(1));
  EXPECT_FALSE(activity[0].contains("changed-per-s"));
  EXPECT_EQ(activity[0]["epochs-per-s"], 0U);
}

TEST(TopTable, HasTheNodesThatAreInBoth) {
  Json other = node();
  other["id"] = "pm1";
  const Json two = Json::array({node(), other});
  EXPECT_EQ(activity_of(nodes(other), two, seconds(1)).size(), 1U);
  EXPECT_EQ(activity_of(two, nodes(other), seconds(1))[0]["id"], "pm1");
}

TEST(TopTable, TakesAnyNumbers) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  Json then = node();
  then["changed"] = 0;
  Json now = node();
  now["changed"] = kMost;
  now["dram-resident"] = kMost;
  now["dram-size"] = 1;
  now["moves"]["promoted-pages"] = kMost;
  now["epochs"]["held-ns"] = kMost;
  const Json activity = activity_of(nodes(then), nodes(now), milliseconds(1));
  EXPECT_EQ(activity[0]["changed-per-s"], 1'000'000'000'000'000'000U);
  EXPECT_FALSE(top_lines(activity).empty());
}

}  // namespace
}  // namespace tierctl
