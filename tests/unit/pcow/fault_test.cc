// SPDX-License-Identifier: BSD-3-Clause
//
// Fault injection: for every n, the nth call of a kind fails; the operation says so, and whatever
// the last successful commit promised is there when the image is opened again.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "tests/support/image_fixture.h"
#include "tests/support/syscall_faults.h"

namespace pcow {
namespace {

constexpr uint64_t kSize = 4 * kGiB;

struct Fault {
  test::Call call;
  int sys_errno;
};

class FaultTest : public ::testing::TestWithParam<Fault> {
 protected:
  // Creates an image with pages 0, 10, … 90 committed.
  void prepare() {
    std::filesystem::remove(path_);
    test::create_image(path_, kSize);
    const auto image = test::open_image(path_);
    for (uint64_t page = 0; page < 100; page += 10) {
      test::write_page(*image, page, test::pattern_page(page));
    }
    ASSERT_OK(image->commit());
    ASSERT_OK(image->close());
  }

  // Pages in three GiBs, one of them with a segment already. True when all of it succeeded.
  bool work(Image& image, bool& committed) {
    std::vector<PageWrite> writes;
    for (const uint64_t page : kNewPages) writes.push_back({PageIndex(page), data_.data()});
    if (!image.write_pages(writes)) return false;
    if (!image.commit()) return false;
    committed = true;
    if (!image.resize(8 * kGiB, false)) return false;
    if (!image.resize(2 * kGiB, true)) return false;
    return image.close().has_value();
  }

  void verify(bool committed) {
    {
      const auto image = test::open_image(path_);
      ASSERT_NE(image, nullptr);
      for (uint64_t page = 0; page < 100; page += 10) {
        EXPECT_EQ(test::read_page(*image, page), test::pattern_page(page));
      }
      for (const uint64_t page : kNewPages) {
        if ((page + 1) * kPageSize > image->virtual_size()) continue;
        const test::Page now = test::read_page(*image, page);
        if (committed) {
          EXPECT_EQ(now, data_) << page;
        } else {
          EXPECT_TRUE(now == data_ || now == test::Page(kPageSize)) << page;
        }
      }
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_, true);
  }

  static constexpr uint64_t kNewPages[] = {5, 6, 7, kPagesPerSegment + 1, 3 * kPagesPerSegment};
  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
  const test::Page data_ = test::pattern_page(77);
};

TEST_P(FaultTest, NothingIsLostWhicheverCallFails) {
  uint64_t nth = 1;
  for (;; ++nth) {
    ASSERT_LT(nth, 1000u);
    prepare();
    bool committed = false;
    bool hit = false;
    {
      const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
      OpenOptions options;
      options.access = Access::kReadWrite;
      auto image = Image::open(path_, options);
      const bool all = image.has_value() && work(**image, committed);
      hit = plan.hit();
      // Releasing the log's space at close is the one call whose failure does not matter.
      if (hit && all && GetParam().call != test::Call::kPunch) {
        ADD_FAILURE() << test::call_name(GetParam().call) << " " << nth << " failed unnoticed";
      }
    }
    verify(committed);
    if (!hit || ::testing::Test::HasFailure()) break;
  }
  std::printf("%s: %lu calls failed in turn\n", test::call_name(GetParam().call).c_str(),
              static_cast<unsigned long>(nth - 1));
  EXPECT_GT(nth, 1u);
}

TEST_P(FaultTest, CreateLeavesNothingBehind) {
  for (uint64_t nth = 1;; ++nth) {
    ASSERT_LT(nth, 100u);
    std::filesystem::remove(path_);
    const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
    CreateOptions options;
    options.virtual_size = kSize;
    const auto result = Image::create(path_, options);
    if (!plan.hit()) {
      ASSERT_OK(result);
      break;
    }
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().sys_errno, GetParam().sys_errno) << result.error().message;
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
}

// The chunks that a shrink dropped are emptied before they can be written again, and not after.
TEST(FaultTestOfTrim, AFailedTrimDoesNotTakeLaterWrites) {
  const test::TempDir dir;
  const std::string path = dir.file("vm.pcow");
  constexpr uint64_t kDropped = kPagesPerSegment + 3;
  test::create_image(path, 2 * kGiB);
  {
    const auto image = test::open_image(path);
    test::write_page(*image, kDropped, test::pattern_page(1));
    {
      const test::FaultPlan plan(test::Call::kPunch, 1, EIO, true);
      ASSERT_FALSE(image->resize(kGiB, true).has_value());
      ASSERT_FALSE(image->resize(2 * kGiB, false).has_value());
      EXPECT_EQ(image->virtual_size(), kGiB);  // what is to be emptied cannot be written
    }
    ASSERT_OK(image->resize(2 * kGiB, false));
    EXPECT_EQ(test::read_page(*image, kDropped), test::Page(kPageSize));
    test::write_page(*image, kDropped + 1, test::pattern_page(2));
    ASSERT_OK(image->commit());
  }
  const auto image = test::open_image(path);
  EXPECT_EQ(test::read_page(*image, kDropped), test::Page(kPageSize));
  EXPECT_EQ(test::read_page(*image, kDropped + 1), test::pattern_page(2));
  ASSERT_OK(image->close());
  test::expect_clean_check(path);
}

INSTANTIATE_TEST_SUITE_P(
    Calls, FaultTest,
    ::testing::Values(Fault{test::Call::kWrite, EIO}, Fault{test::Call::kWrite, ENOSPC},
                      Fault{test::Call::kFlush, EIO}, Fault{test::Call::kReserve, ENOSPC},
                      Fault{test::Call::kReserve, EIO}, Fault{test::Call::kPunch, EIO},
                      Fault{test::Call::kExtend, ENOSPC}, Fault{test::Call::kRead, EIO}),
    [](const auto& param) {
      return test::call_name(param.param.call) + "_" + std::to_string(param.param.sys_errno);
    });

}  // namespace
}  // namespace pcow
