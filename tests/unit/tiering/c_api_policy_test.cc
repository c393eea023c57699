// SPDX-License-Identifier: BSD-3-Clause
//
// Policies through the C boundary.
#include <gtest/gtest.h>
#include <tiering/tiering.h>

#include <future>
#include <mutex>
#include <string>
#include <vector>

#include "tests/unit/tiering/c_api_fixture.h"

namespace tiering::testing {
namespace {

using CApiPolicyTest = CApiTest;

std::vector<tiering_explained> explained_by(tiering_region* region, uint64_t offset,
                                            uint64_t length) {
  std::vector<tiering_explained> runs;
  const auto add = [](void* opaque, const tiering_explained* run) {
    static_cast<std::vector<tiering_explained>*>(opaque)->push_back(*run);
  };
  EXPECT_EQ(tiering_region_explain(region, offset, length, add, &runs, nullptr), TIERING_OK);
  return runs;
}

TEST_F(CApiPolicyTest, APolicyIsSetWhileEpochsAreMade) {
  Hypervisor hypervisor;
  const tiering_epoch_options epoch = hypervisor.options();
  tiering_options wanted = options();
  wanted.persistence = TIERING_PERSISTENCE_EPOCH;
  wanted.epoch = &epoch;
  wanted.dram_size_bytes = 32 * pcow::kMiB;
  wanted.policy = TIERING_POLICY_AGE;
  ASSERT_EQ(open(wanted), TIERING_OK) << error_.message;
  tiering_policy_options now{};
  now.struct_size = sizeof now;
  ASSERT_EQ(tiering_region_get_policy(region_, &now, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(now.policy, TIERING_POLICY_AGE);
  EXPECT_EQ(now.dram_size_bytes, 32 * pcow::kMiB);
  EXPECT_EQ(now.high_percent, 95U);
  EXPECT_EQ(now.low_percent, 85U);
  EXPECT_EQ(now.migrate_rate, 500 * pcow::kMiB);

  tiering_policy_options heat{};
  heat.struct_size = sizeof heat;
  heat.policy = TIERING_POLICY_HEAT;
  heat.dram_size_bytes = 16 * pcow::kMiB;
  heat.low_percent = 96;
  EXPECT_EQ(tiering_region_set_policy(region_, &heat, &error_), TIERING_E_INVALID);
  EXPECT_NE(std::string(error_.message).find("low=96%"), std::string::npos) << error_.message;
  ASSERT_EQ(tiering_region_get_policy(region_, &now, &error_), TIERING_OK);
  EXPECT_EQ(now.policy, TIERING_POLICY_AGE);
  EXPECT_EQ(now.dram_size_bytes, 32 * pcow::kMiB);
  heat.low_percent = 50;
  ASSERT_EQ(tiering_region_set_policy(region_, &heat, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(status().dram_size_bytes, 16 * pcow::kMiB);

  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  {
    const std::lock_guard running(hypervisor.guest);
    base()[5 * pcow::kPageSize] = 'a';
  }
  for (int i = 0; i < 2; ++i) {
    std::promise<int> answer;
    ASSERT_EQ(tiering_region_flush(region_, true, set_code, &answer, &error_), TIERING_OK);
    EXPECT_EQ(answer.get_future().get(), TIERING_OK);
  }
  tiering_policy_status counted{};
  counted.struct_size = sizeof counted;
  ASSERT_EQ(tiering_region_policy_status(region_, &counted, &error_), TIERING_OK);
  EXPECT_GE(counted.plans, 1U);
  EXPECT_GT(counted.tracker_bytes, 0U);
  EXPECT_GT(counted.busy_ns, 0U);
  const auto runs = explained_by(region_, 4 * pcow::kPageSize + 1, 2 * pcow::kPageSize);
  ASSERT_EQ(runs.size(), 3U);
  EXPECT_EQ(runs[0].place, TIERING_PLACE_HOLE);
  EXPECT_EQ(runs[0].first_page, 4U);
  EXPECT_EQ(runs[1].place, TIERING_PLACE_DRAM);
  EXPECT_EQ(runs[1].pages, 1U);
  ASSERT_NE(runs[1].verdict, nullptr);
  EXPECT_STREQ(runs[1].verdict, "belongs");
  EXPECT_EQ(tiering_region_explain(
                region_, kSize, 1, [](void*, const tiering_explained*) {}, nullptr, &error_),
            TIERING_E_INVALID);
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
}

TEST_F(CApiPolicyTest, AVolatileRegionHasALimitAlone) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  tiering_policy_options wanted{};
  wanted.struct_size = sizeof wanted;
  wanted.policy = TIERING_POLICY_STATIC;
  EXPECT_EQ(tiering_region_set_policy(region_, &wanted, &error_), TIERING_E_UNSUPPORTED);
  wanted.policy = TIERING_POLICY_OFF;
  wanted.high_percent = 90;
  EXPECT_EQ(tiering_region_set_policy(region_, &wanted, &error_), TIERING_E_UNSUPPORTED);
  wanted.high_percent = 0;
  wanted.dram_size_bytes = pcow::kPageSize;
  ASSERT_EQ(tiering_region_set_policy(region_, &wanted, &error_), TIERING_OK) << error_.message;
  for (uint64_t page = 0; page < 8; ++page) base()[page * pcow::kPageSize] = 'a';
  ASSERT_EQ(tiering_region_commit(region_, true, nullptr, &error_), TIERING_OK) << error_.message;
  EXPECT_LE(status().dram_resident_bytes, pcow::kPageSize);
  const auto runs = explained_by(region_, 0, pcow::kPageSize);
  ASSERT_EQ(runs.size(), 1U);
  EXPECT_EQ(runs[0].place, TIERING_PLACE_IMAGE);
  EXPECT_EQ(runs[0].verdict, nullptr);
}

}  // namespace
}  // namespace tiering::testing
