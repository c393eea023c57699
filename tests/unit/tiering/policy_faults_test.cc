// SPDX-License-Identifier: BSD-3-Clause
//
// Every call to the kernel that a policy makes, failing in turn, and memory running out at every
// allocation: epochs go on, no store is lost, and the policy and its limit work again afterwards.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>

#include "tests/support/syscall_faults.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/migration.h"

namespace tiering::testing {
namespace {

using pcow::Code;
using pcow::kMiB;
using pcow::kPageSize;
using ::test::Call;

constexpr uint64_t kAll = ~uint64_t{0} / 2;
constexpr uint64_t kSize = 8 * kMiB;
constexpr uint64_t kOwned = 3 * pcow::kPagesPerChunk;
constexpr uint64_t kDramPages = 128;

struct Fault {
  Call call;
  int sys_errno;
  Code code;
};

constexpr Fault kFaults[] = {
    {Call::kMap, ENOMEM, Code::kNoMemory},      {Call::kAdvise, ENOMEM, Code::kNoMemory},
    {Call::kTrack, ENOMEM, Code::kNoMemory},    {Call::kRead, EIO, Code::kIo},
    {Call::kAllocate, ENOMEM, Code::kNoMemory},
};

class PolicyFaultTest : public ::testing::TestWithParam<Fault> {
 protected:
  // Three chunks are mapped from their windows, one is a hole. Where the limit sinks pages are to
  // leave all of these, where it rises some are to come; some are watched, and some were discarded.
  void begin() {
    migration_.reset();
    guarded_.reset();
    region_.reset();
    image_.reset();
    std::filesystem::remove(path_);
    marks_.clear();
    must(pcow::Image::create(path_, {.virtual_size = kSize, .log_size = 4 * kMiB}));
    map();
    for (uint64_t page = 0; page < kOwned; page += 3) store(page, page + 1);
    must(region_->commit(false));
    region_.reset();
    must(image_->close());
    image_.reset();
    map();
    guarded_.emplace(*region_);
    migration_.emplace(*guarded_, kSize, 0,
                       MigrationOptions{.step = std::chrono::nanoseconds(0),
                                        .watched_chunks_min = kSize / pcow::kChunkSize});
    set_limit(first_limit_);
    for (uint64_t i = 0; i < 3; ++i) {
      for (uint64_t page = 0; page < 60; page += 3) expect_mark(page);
      for (uint64_t page = 513; page < 543; page += 3) store(page, 1000 * i + page);
      for (uint64_t page = kOwned; page < kOwned + 20; ++page) store(page, 1000 * i + page);
      epoch();
    }
    must(region_->discard(600 * kPageSize, 9 * kPageSize));
    marks_.erase(marks_.lower_bound(600), marks_.lower_bound(609));
    for (uint64_t page = 0; page < 60; page += 3) expect_mark(page);
    for (uint64_t page = 900; page < 960; page += 3) expect_mark(page);
    set_limit(limit_);
  }
  void map() {
    image_ = must(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
    region_ = map_region(*image_, {.persistence = Persistence::kEpoch});
  }
  void set_limit(uint64_t pages) {
    must(migration_->set_parameters({.kind = PolicyKind::kHeat,
                                     .dram_size = pages * kPageSize,
                                     .migrate_rate = 1024 * pcow::kGiB}));
  }

  void store(uint64_t page, uint64_t value) { set_mark(*region_, page, marks_[page] = value); }
  void expect_mark(uint64_t page) {
    const auto found = marks_.find(page);
    ASSERT_EQ(mark(*region_, page), found == marks_.end() ? 0 : found->second) << page;
  }
  void epoch() {
    must(migration_->prepare());
    finish_epoch(must(region_->barrier()));
  }
  void finish_epoch(const BarrierReport& report) {
    migration_->barrier_made(report);
    must(region_->commit_epoch());
    must(region_->checkpoint(kAll));
  }
  void expect_all() {
    for (uint64_t page = 0; page < kSize / kPageSize; ++page) {
      expect_mark(page);
      ASSERT_EQ(image_mark(*image_, page), mark(*region_, page)) << page;
    }
  }

  // Runs `before` and, with the nth call failing, `faulty`, for every n. Then compares, when
  // `after` has made the barrier.
  template <typename Before, typename Faulty, typename After>
  void for_every_call(const Before& before, const Faulty& faulty, const After& after) {
    uint64_t nth = 1;
    for (bool hit = true; hit && !HasFailure(); nth += ::test::fault_step()) {
      SCOPED_TRACE(::test::call_name(GetParam().call) + " " + std::to_string(nth));
      ASSERT_LT(nth, 20000u);
      begin();
      before();
      if (HasFailure()) return;
      {
        const ::test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
        try {
          faulty();
        } catch (const std::exception& exception) {
          ADD_FAILURE() << "an exception crossed the boundary: " << exception.what();
        }
        hit = plan.hit();
      }
      if (hit) ++hits_;
      verify(hit, after());
    }
    std::printf("%s: %lu calls, %lu steps of the policy failed\n",
                ::test::call_name(GetParam().call).c_str(), static_cast<unsigned long>(hits_),
                static_cast<unsigned long>(failed_steps_));
    if (GetParam().call == Call::kAllocate) {
      EXPECT_GT(hits_, 0u);
    }
  }
  void verify(bool hit, pcow::Result<BarrierReport> report) {
    const MigrationStatistics statistics = migration_->statistics();
    failed_steps_ += statistics.failed_steps;
    EXPECT_EQ(statistics.failed_steps > 0 || statistics.refused.back() > 0,
              !statistics.last_failure.empty());
    if (!report) {
      EXPECT_TRUE(hit);
      EXPECT_EQ(code_name(report.error().code), code_name(GetParam().code))
          << report.error().message;
      report = must(region_->barrier());
    } else if (report->demotion_error) {
      EXPECT_TRUE(hit);
    }
    for (uint64_t page = 515; page < 700; page += 7) store(page, 5000 + page);  // of the next epoch
    finish_epoch(*report);
    for (int i = 0; i < 3; ++i) epoch();
    EXPECT_EQ(migration_->statistics().failed_steps, statistics.failed_steps);
    EXPECT_LE(must(region_->status()).dram_resident_bytes / kPageSize, limit_);
    expect_all();
  }

  const ::test::TempDir directory_;
  const std::string path_ = directory_.file("vm.pcow");
  std::unique_ptr<pcow::Image> image_;
  std::unique_ptr<Region> region_;
  std::optional<GuardedRegion> guarded_;
  std::optional<Migration> migration_;
  std::map<uint64_t, uint64_t> marks_;
  uint64_t first_limit_ = kDramPages;
  uint64_t limit_ = kDramPages / 4;
  uint64_t failed_steps_ = 0;
  uint64_t hits_ = 0;
};

TEST_P(PolicyFaultTest, EpochsGoOnWithoutAPolicyThatFails) {
  const auto prepare = [&] {
    const pcow::Result<void> prepared = migration_->prepare();
    EXPECT_TRUE(prepared) << prepared.error().message;
  };
  for_every_call([] {}, prepare, [&] { return region_->barrier(); });
}

TEST_P(PolicyFaultTest, APageThatCannotBePromotedStays) {
  std::swap(first_limit_, limit_);
  for_every_call([] {}, [&] { must(migration_->prepare()); }, [&] { return region_->barrier(); });
  if (GetParam().call == Call::kAdvise) {
    EXPECT_GT(hits_, 0u);
  }
}

TEST_P(PolicyFaultTest, ABarrierThatMovesLessIsOne) {
  const auto prepare = [&] {
    must(migration_->prepare());
    must(region_->precopy());  // so that nothing is left to be logged
  };
  pcow::Result<BarrierReport> report = BarrierReport{};
  for_every_call(
      prepare, [&] { report = region_->barrier(); }, [&] { return report; });
}

INSTANTIATE_TEST_SUITE_P(Calls, PolicyFaultTest, ::testing::ValuesIn(kFaults),
                         [](const auto& param) { return ::test::call_name(param.param.call); });

}  // namespace
}  // namespace tiering::testing
