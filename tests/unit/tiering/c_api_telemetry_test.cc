// SPDX-License-Identifier: BSD-3-Clause
//
// What the library counts and logs, through the C boundary.
#include <gtest/gtest.h>
#include <tiering/tiering.h>

#include <cstring>
#include <future>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "tests/unit/tiering/c_api_fixture.h"

namespace tiering::testing {
namespace {

// Of the process; as it was afterwards.
class LogLines {
 public:
  explicit LogLines(tiering_log_level level) {
    EXPECT_EQ(tiering_log_set_listener(add, this, nullptr), TIERING_OK);
    EXPECT_EQ(tiering_log_set_level(level, nullptr), TIERING_OK);
  }
  ~LogLines() {
    EXPECT_EQ(tiering_log_set_level(TIERING_LOG_WARNING, nullptr), TIERING_OK);
    EXPECT_EQ(tiering_log_set_listener(nullptr, nullptr, nullptr), TIERING_OK);
  }
  LogLines(const LogLines&) = delete;
  LogLines& operator=(const LogLines&) = delete;

  // How many there are of this level with this text.
  size_t count(tiering_log_level level, const std::string& text) {
    const std::lock_guard lock(mutex_);
    return static_cast<size_t>(std::ranges::count_if(lines_, [&](const auto& line) {
      return line.first == level && line.second.find(text) != std::string::npos;
    }));
  }

 private:
  static void add(void* opaque, tiering_log_level level, const char* text) {
    auto* self = static_cast<LogLines*>(opaque);
    const std::lock_guard lock(self->mutex_);
    self->lines_.emplace_back(level, text);
  }

  std::mutex mutex_;
  std::vector<std::pair<tiering_log_level, std::string>> lines_;
};

class CApiTelemetryTest : public CApiTest {
 protected:
  tiering_options with_epochs(const tiering_epoch_options& epoch) const {
    tiering_options wanted = options();
    wanted.persistence = TIERING_PERSISTENCE_EPOCH;
    wanted.epoch = &epoch;
    return wanted;
  }
  void store(Hypervisor& hypervisor, uint64_t pages, char value) {
    const std::lock_guard running(hypervisor.guest);
    for (uint64_t page = 0; page < pages; ++page) {
      std::memset(base() + page * pcow::kPageSize, value, pcow::kPageSize);
    }
  }
  void flush() {
    std::promise<int> answer;
    ASSERT_EQ(tiering_region_flush(region_, true, set_code, &answer, &error_), TIERING_OK);
    ASSERT_EQ(answer.get_future().get(), TIERING_OK);
  }
};

TEST_F(CApiTelemetryTest, LogLevelsAreSetLive) {
  EXPECT_EQ(tiering_log_get_level(), TIERING_LOG_WARNING);
  EXPECT_EQ(tiering_log_set_level(static_cast<tiering_log_level>(5), &error_), TIERING_E_INVALID);
  EXPECT_EQ(tiering_log_get_level(), TIERING_LOG_WARNING);
  LogLines lines(TIERING_LOG_DEBUG);
  EXPECT_EQ(tiering_log_get_level(), TIERING_LOG_DEBUG);
  Hypervisor hypervisor;
  const tiering_epoch_options epoch = hypervisor.options();
  ASSERT_EQ(open(with_epochs(epoch)), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  store(hypervisor, 1, 'a');
  flush();
  std::promise<int> created;
  ASSERT_EQ(tiering_snapshot_create(region_, "monday", set_code, &created, &error_), TIERING_OK);
  ASSERT_EQ(created.get_future().get(), TIERING_OK);
  EXPECT_EQ(lines.count(TIERING_LOG_INFO, "'" + path_ + "': snapshot 'monday' created"), 1U);
  tiering_policy_options heat{};
  heat.struct_size = sizeof heat;
  heat.policy = TIERING_POLICY_HEAT;
  heat.dram_size_bytes = 16 * pcow::kMiB;
  ASSERT_EQ(tiering_log_set_level(TIERING_LOG_WARNING, &error_), TIERING_OK);
  ASSERT_EQ(tiering_region_set_policy(region_, &heat, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(lines.count(TIERING_LOG_INFO, "policy heat"), 0U);
  ASSERT_EQ(tiering_log_set_level(TIERING_LOG_INFO, &error_), TIERING_OK);
  ASSERT_EQ(tiering_region_set_policy(region_, &heat, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(lines.count(TIERING_LOG_INFO, "policy heat, at most 16 MiB in DRAM"), 1U);
  ASSERT_EQ(tiering_region_shutdown(region_, &error_), TIERING_OK) << error_.message;
  EXPECT_GE(lines.count(TIERING_LOG_DEBUG, "': epoch 1: "), 1U);
}

// Where nothing is persistent, pages go straight to their places; what makes them the image's is in
// the log.
TEST_F(CApiTelemetryTest, CommitsCountWhatTheyStore) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  const tiering_status before = status();
  std::memset(base(), 'a', 4 * pcow::kPageSize);
  ASSERT_EQ(tiering_region_commit(region_, true, nullptr, &error_), TIERING_OK) << error_.message;
  const tiering_status now = status();
  EXPECT_EQ(now.changed_bytes, 4 * pcow::kPageSize);
  EXPECT_EQ(now.stored_pages_bytes, 4 * pcow::kPageSize);
  EXPECT_GT(now.stored_log_bytes, before.stored_log_bytes);
  EXPECT_GT(now.stored_metadata_bytes, before.stored_metadata_bytes);
  EXPECT_EQ(now.stored_checkpoint_bytes, 0U);
  EXPECT_EQ(now.stored_copies_bytes, 0U);
}

TEST_F(CApiTelemetryTest, EpochsCountWhatTheyStoreAndHowLongTheyPause) {
  Hypervisor hypervisor;
  const tiering_epoch_options epoch = hypervisor.options();
  ASSERT_EQ(open(with_epochs(epoch)), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  store(hypervisor, 4, 'a');
  flush();
  const tiering_status first = status();
  EXPECT_EQ(first.stored_pages_bytes, 4 * pcow::kPageSize);
  store(hypervisor, 2, 'b');  // which the image owns by now
  flush();
  ASSERT_EQ(tiering_epoch_stop(region_, &error_), TIERING_OK) << error_.message;
  const tiering_status now = status();
  EXPECT_GE(now.changed_bytes, 6 * pcow::kPageSize);
  EXPECT_EQ(now.stored_pages_bytes, first.stored_pages_bytes);
  EXPECT_GE(now.stored_log_bytes, first.stored_log_bytes + 2 * pcow::kPageSize);
  EXPECT_GE(now.stored_checkpoint_bytes, 2 * pcow::kPageSize);

  tiering_epoch_status epochs{};
  epochs.struct_size = sizeof epochs;
  ASSERT_EQ(tiering_epoch_get_status(region_, &epochs, &error_), TIERING_OK) << error_.message;
  EXPECT_EQ(epochs.restarts, 0U);
  std::vector<std::pair<uint64_t, uint64_t>> pauses;
  const auto add = [](void* opaque, uint64_t up_to_ns, uint64_t count) {
    static_cast<decltype(pauses)*>(opaque)->emplace_back(up_to_ns, count);
  };
  ASSERT_EQ(tiering_epoch_get_pauses(region_, add, &pauses, &error_), TIERING_OK);
  uint64_t total = 0;
  uint64_t last = 0;
  uint64_t sum_bound_ns = 0;
  for (const auto& [up_to_ns, count] : pauses) {
    EXPECT_GT(up_to_ns, last);
    EXPECT_GT(count, 0U);
    last = up_to_ns;
    total += count;
    sum_bound_ns += up_to_ns * count;
  }
  EXPECT_EQ(total, 2U);
  EXPECT_EQ(last, epochs.pause_max_ns);
  EXPECT_LE(epochs.pause_sum_ns, sum_bound_ns);
  EXPECT_GE(epochs.pause_sum_ns, epochs.pause_max_ns);
}

TEST_F(CApiTelemetryTest, APolicyEstimatesItsHits) {
  Hypervisor hypervisor;
  tiering_epoch_options epoch = hypervisor.options();
  epoch.min_ms = epoch.max_ms = 20;
  ASSERT_EQ(open(with_epochs(epoch)), TIERING_OK) << error_.message;
  tiering_policy_status moves{};
  moves.struct_size = sizeof moves;
  ASSERT_EQ(tiering_region_policy_status(region_, &moves, &error_), TIERING_OK);
  EXPECT_EQ(moves.hit_permille, -1);
  tiering_policy_options wanted{};
  wanted.struct_size = sizeof wanted;
  wanted.policy = TIERING_POLICY_STATIC;
  ASSERT_EQ(tiering_region_set_policy(region_, &wanted, &error_), TIERING_OK) << error_.message;
  ASSERT_EQ(tiering_epoch_start(region_, &error_), TIERING_OK) << error_.message;
  for (char value = 0; moves.steps == 0; ++value) {
    store(hypervisor, 8, value);
    flush();
    ASSERT_EQ(tiering_region_policy_status(region_, &moves, &error_), TIERING_OK);
  }
  EXPECT_EQ(moves.hit_permille, 1000);  // there is room for all
}

TEST_F(CApiTelemetryTest, AVolatileRegionHasNoPauses) {
  ASSERT_EQ(open(options()), TIERING_OK) << error_.message;
  EXPECT_EQ(tiering_epoch_get_pauses(
                region_, [](void*, uint64_t, uint64_t) {}, nullptr, &error_),
            TIERING_E_INVALID);
}

}  // namespace
}  // namespace tiering::testing
