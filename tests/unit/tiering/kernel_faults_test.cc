// SPDX-License-Identifier: BSD-3-Clause
//
// Every call to the kernel that a region makes, failing in turn, and memory running out at every
// allocation: no store is lost, and the same call succeeds when it is repeated.
#include <tiering/region.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <map>
#include <tuple>

#include "tests/support/syscall_faults.h"
#include "tests/unit/tiering/fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering::testing {
namespace {

using pcow::Code;
using pcow::kMiB;
using ::test::Call;

struct Fault {
  Call call;
  int sys_errno;
  Code code;
};

constexpr Fault kFaults[] = {
    {Call::kMap, ENOMEM, Code::kNoMemory},   {Call::kAdvise, ENOMEM, Code::kNoMemory},
    {Call::kTrack, ENOMEM, Code::kNoMemory}, {Call::kOpen, EMFILE, Code::kNoMemory},
    {Call::kRead, EIO, Code::kIo},           {Call::kReserve, ENOSPC, Code::kNoSpace},
    {Call::kSeek, EIO, Code::kIo},           {Call::kAllocate, ENOMEM, Code::kNoMemory},
};

// The kind of call, and whether the image says that it lies on DAX.
class KernelFaultTest : public ::testing::TestWithParam<std::tuple<Fault, bool>> {
 protected:
  static constexpr uint64_t kSize = 16 * kMiB;

  const Fault& fault() const { return std::get<0>(GetParam()); }

  // An image of a file of its own, with marks in some chunks.
  void begin() {
    region_.reset();
    image_.reset();
    file_.reset();
    std::filesystem::remove(path_);
    marks_.clear();
    must(pcow::Image::create(path_, {.virtual_size = kSize, .log_size = 4 * kMiB}));
    file_ = must(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
    image_ = std::make_unique<ImageDecorator>(*file_);
    if (std::get<1>(GetParam())) image_->granularity = pcow::Granularity::kCacheLine;
  }
  void map() { region_ = map_region(*image_, kOptions); }

  void store(uint64_t first, uint64_t step, uint64_t value) {
    for (uint64_t page = first; page < kSize / pcow::kPageSize; page += step) {
      set_mark(*region_, page, value + page);
      marks_[page] = value + page;
    }
  }
  void expect_marks() const {
    for (const auto& [page, value] : marks_) ASSERT_EQ(mark(*region_, page), value) << page;
  }
  void expect_committed() {
    expect_marks();
    for (const auto& [page, value] : marks_) ASSERT_EQ(image_mark(*image_, page), value) << page;
    EXPECT_EQ(must(region_->status()).dirty_bytes, 0u);
    EXPECT_LE(must(region_->status()).dram_resident_bytes, kOptions.dram_size);
  }

  // Runs `prepare` and, with the nth call failing, `operation`, for every n; then `verify`. What
  // fails must say so: with the code, or by having found another way.
  template <typename Prepare, typename Operation, typename Verify>
  void for_every_call(const char* name, const Prepare& prepare, const Operation& operation,
                      const Verify& verify) {
    uint64_t nth = 1;
    uint64_t hits = 0;
    for (bool hit = true; hit && !HasFailure(); nth += ::test::fault_step()) {
      SCOPED_TRACE(std::string(name) + ": " + ::test::call_name(fault().call) + " " +
                   std::to_string(nth));
      ASSERT_LT(nth, 20000u);
      prepare();
      pcow::Result<void> result;
      {
        const ::test::FaultPlan plan(fault().call, nth, fault().sys_errno);
        try {
          result = operation();
        } catch (const std::exception& exception) {
          ADD_FAILURE() << "an exception crossed the boundary: " << exception.what();
        }
        hit = plan.hit();
      }
      if (hit) ++hits;
      if (!result) {
        EXPECT_TRUE(hit);
        EXPECT_EQ(code_name(result.error().code), code_name(fault().code))
            << result.error().message;
        EXPECT_FALSE(result.error().message.empty());
      }
      verify(result.has_value());
    }
    std::printf("%s: %s %lu\n", name, ::test::call_name(fault().call).c_str(),
                static_cast<unsigned long>(hits));
  }

  static constexpr RegionOptions kOptions{.dram_size = kMiB / 4};

  const ::test::TempDir directory_;
  const std::string path_ = directory_.file("vm.pcow");
  std::unique_ptr<pcow::Image> file_;
  std::unique_ptr<ImageDecorator> image_;
  std::unique_ptr<Region> region_;
  std::map<uint64_t, uint64_t> marks_;
};

size_t open_files() {
  const std::filesystem::directory_iterator files("/proc/self/fd");
  return static_cast<size_t>(std::distance(begin(files), end(files)));
}

TEST_P(KernelFaultTest, ACommitThatFailsLosesNothing) {
  for_every_call(
      "commit",
      [&] {
        begin();
        map();
        store(0, 37, 1000);
        must(region_->commit(true));
        store(5, 61, 2000);      // in cached chunks and beside them
        store(0, 3 * 37, 3000);  // again
      },
      [&]() -> pcow::Result<void> {
        PCOW_TRY(region_->commit(true));
        return {};
      },
      [&](bool) {
        expect_marks();
        store(2, 53, 4000);  // with whatever tracking there is now
        must(region_->commit(true));
        expect_committed();
        store(1, 71, 5000);
        must(region_->commit(true));
        expect_committed();
      });
}

TEST_P(KernelFaultTest, MappingLeavesNothingBehind) {
  size_t files = 0;
  for_every_call(
      "map",
      [&] {
        begin();
        map();
        store(0, 37, 1000);
        must(region_->commit(true));
        region_.reset();
        files = open_files();
      },
      [&]() -> pcow::Result<void> {
        PCOW_TRY_ASSIGN(region_, Region::map(*image_, kOptions));
        return {};
      },
      [&](bool mapped) {
        if (!mapped) {
          EXPECT_EQ(open_files(), files);
          map();
        }
        expect_marks();
        store(2, 53, 4000);
        must(region_->commit(true));
        expect_committed();
      });
}

// A snapshot is deleted whose windows are mapped.
TEST_P(KernelFaultTest, LeavingWhatWasGivenUpLosesNothing) {
  constexpr uint64_t kAll = ~uint64_t{0} / 2;
  for_every_call(
      "delete a snapshot",
      [&] {
        begin();
        map();
        for (uint64_t page = 0; page < 200; ++page) {
          set_mark(*region_, page, marks_[page] = 1000 + page);
        }
        must(region_->commit(true));
        must(region_->create_snapshot("one"));
        for (uint64_t page = 1024; page < 1424; ++page) {
          set_mark(*region_, page, marks_[page] = 2000 + page);
        }
        set_mark(*region_, 3, marks_[3] = 3000);
        must(region_->commit(true));
        must(region_->begin_deletion("one"));
      },
      [&]() -> pcow::Result<void> {
        PCOW_TRY(region_->continue_deletion(kAll));
        PCOW_TRY(region_->commit(true));
        PCOW_TRY(region_->continue_deletion(kAll));
        return {};
      },
      [&](bool) {
        expect_marks();
        for (int round = 0; round < 3 && file_->info().deleting; ++round) {
          must(region_->continue_deletion(kAll));
          store(2, 53, 4000);
          must(region_->commit(true));
          expect_committed();
        }
        EXPECT_FALSE(file_->info().deleting);
        expect_marks();
      });
}

TEST_P(KernelFaultTest, LookingAndSettingAttributesChangeNothing) {
  for_every_call(
      "status, attributes, reclaim",
      [&] {
        begin();
        map();
        store(0, 37, 1000);
        must(region_->commit(true));
        store(5, 61, 2000);
      },
      [&]() -> pcow::Result<void> {
        PCOW_TRY(region_->status());
        PCOW_TRY(region_->apply_attributes());
        return region_->reclaim();
      },
      [&](bool) {
        must(region_->apply_attributes());
        must(region_->reclaim());
        expect_marks();
        must(region_->commit(true));
        expect_committed();
      });
}

INSTANTIATE_TEST_SUITE_P(Calls, KernelFaultTest,
                         ::testing::Combine(::testing::ValuesIn(kFaults), ::testing::Bool()),
                         [](const auto& param) {
                           return ::test::call_name(std::get<0>(param.param).call) +
                                  (std::get<1>(param.param) ? "_dax" : "");
                         });

}  // namespace
}  // namespace tiering::testing
