// SPDX-License-Identifier: BSD-3-Clause
//
// Every call to the kernel on a chunk's way to becoming huge, failing in turn, and memory running
// out at every allocation: no store is lost, epochs go on, and the next attempt succeeds.
#include <gtest/gtest.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "tests/support/huge_pages.h"
#include "tests/support/syscall_faults.h"
#include "tests/unit/tiering/fixture.h"

namespace tiering::testing {
namespace {

using pcow::ChunkIndex;
using pcow::kChunkSize;
using pcow::kPagesPerChunk;
using ::test::Call;

constexpr uint64_t kChunks = 3;
constexpr uint64_t kPages = kChunks * kPagesPerChunk;
constexpr uint64_t kAll = ~uint64_t{0} / 2;

struct Fault {
  Call call;
  int sys_errno;
};

constexpr Fault kFaults[] = {{Call::kMap, ENOMEM},
                             {Call::kAdvise, ENOMEM},
                             {Call::kTrack, ENOMEM},
                             {Call::kRead, EIO},
                             {Call::kAllocate, ENOMEM}};

class HugeFaultTest : public ::testing::TestWithParam<Fault> {
 protected:
  // The first chunk is a window with copies, the second a window alone, the third a hole.
  void begin() {
    region_.reset();
    image_.reset();
    std::filesystem::remove(path_);
    must(pcow::Image::create(path_, {.virtual_size = kChunks * kChunkSize}));
    map();
    marks_.assign(kPages, 0);
    for (uint64_t page = 0; page < 2 * kPagesPerChunk; page += 64) store(page, page + 1);
    must(region_->commit(false));
    region_.reset();
    must(image_->close());
    image_.reset();
    map();
    for (uint64_t page = 0; page < 100; ++page) store(page, 1000 + page);
    for (uint64_t page = kPages - 50; page < kPages; page += 2) store(page, 2000 + page);
    epoch();
  }
  void map() {
    image_ = must(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
    region_ = map_region(*image_, {.persistence = Persistence::kEpoch});
  }
  void store(uint64_t page, uint64_t value) { set_mark(*region_, page, marks_.at(page) = value); }
  uint64_t epoch() {
    const uint64_t huge = must(region_->barrier()).huge_chunks;
    commit();
    return huge;
  }
  void commit() {
    must(region_->commit_epoch());
    must(region_->checkpoint(kAll));
  }
  pcow::Result<PreparedMoves> prepare() {
    return region_->prepare_moves({.demotions = {}, .watched = {}, .huge = all_});
  }
  void expect_content() {
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(mark(*region_, page), marks_[page]) << page;
    }
  }
  // Does `faulty` with the nth call failing, for every n, after `before` and in front of `after`.
  template <typename Before, typename Faulty, typename After>
  void for_every_call(const Before& before, const Faulty& faulty, const After& after) {
    uint64_t hits = 0;
    uint64_t nth = 1;
    for (bool hit = true; hit && !HasFailure(); nth += ::test::fault_step()) {
      SCOPED_TRACE(::test::call_name(GetParam().call) + " " + std::to_string(nth));
      ASSERT_LT(nth, 2000U);
      begin();
      before();
      {
        const ::test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
        faulty();
        hit = plan.hit();
      }
      hits += hit ? 1U : 0U;
      after();
      verify();
    }
    std::printf("%s: %lu calls\n", ::test::call_name(GetParam().call).c_str(),
                static_cast<unsigned long>(hits));
  }
  void verify() {
    expect_content();
    for (uint64_t page = 7; page < kPages; page += 100) store(page, 3000 + page);
    epoch();
    expect_content();
    must(prepare());
    epoch();
    EXPECT_EQ(must(region_->status()).huge_chunks, ::test::host_makes_huge_chunks() ? kChunks : 0U);
    expect_content();
    for (uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(image_mark(*image_, page), marks_[page]) << page;
    }
  }

  const ::test::TempDir directory_;
  const std::string path_ = directory_.file("vm.pcow");
  const std::vector<ChunkIndex> all_{ChunkIndex(0), ChunkIndex(1), ChunkIndex(2)};
  std::unique_ptr<pcow::Image> image_;
  std::unique_ptr<Region> region_;
  std::vector<uint64_t> marks_;
};

TEST_P(HugeFaultTest, AChunkThatCannotBeStagedStaysAsItIs) {
  for_every_call([] {},
                 [&] {
                   const auto prepared = prepare();
                   if (!prepared) {
                     EXPECT_FALSE(prepared.error().message.empty());
                   }
                 },
                 [&] { epoch(); });
}

TEST_P(HugeFaultTest, AChunkThatCannotBeMappedStaysAsItIs) {
  const auto stage = [&] {
    must(prepare());
    store(3, 5000);
    must(region_->precopy());
  };
  bool made = false;
  const auto make = [&] {
    const auto report = region_->barrier();
    made = report.has_value();
    if (!made) {
      EXPECT_FALSE(report.error().message.empty());
    }
  };
  for_every_call(stage, make, [&] {
    if (!made) must(region_->barrier());
    expect_content();
    commit();
  });
}

INSTANTIATE_TEST_SUITE_P(Calls, HugeFaultTest, ::testing::ValuesIn(kFaults),
                         [](const auto& param) { return ::test::call_name(param.param.call); });

}  // namespace
}  // namespace tiering::testing
