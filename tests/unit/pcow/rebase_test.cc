// SPDX-License-Identifier: BSD-3-Clause
//
// Another base, none, and content that goes down into the base. Whatever call fails on the way, the
// image shows what it did.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <map>

#include "tests/support/image_fixture.h"
#include "tests/support/syscall_faults.h"

namespace pcow {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSize = 2 * kGiB;
constexpr uint64_t kFar = kPagesPerSegment + 3;
const test::Page kZeroPage(kPageSize);

using Content = std::map<uint64_t, uint64_t>;  // page → value of its pattern; 0: zeros

class RebaseTest : public ::testing::Test {
 protected:
  void make_image(const std::string& path, const Content& content, uint64_t size = kSize) {
    test::create_image(path, size, 4 * kMiB);
    fill(path, content);
  }
  static void fill(const std::string& path, const Content& content) {
    const auto image = test::open_image(path);
    for (const auto& [page, value] : content) test::write_page(*image, page, page_of(value));
    ASSERT_OK(image->close());
  }
  static test::Page page_of(uint64_t value) {
    return value == 0 ? kZeroPage : test::pattern_page(value);
  }
  void make_raw(const std::string& path, uint64_t pages, const std::string& tail) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    for (uint64_t n = 0; n < pages; ++n) {
      const test::Page page = test::pattern_page(100 + n);
      file.write(reinterpret_cast<const char*>(page.data()), kPageSize);
    }
    file << tail;
  }
  void create_on(const std::string& base, BaseFormat format = BaseFormat::kPcow,
                 uint64_t size = 0) {
    CreateOptions options;
    options.virtual_size = size;
    options.log_size = 4 * kMiB;
    options.overwrite = true;
    options.base = Base{base, format};
    ASSERT_OK(Image::create(path_, options));
  }

  static Content shown(const std::string& path) {
    OpenOptions options;
    options.base = BaseAccess::kFollow;
    options.replay_in_memory = true;
    const auto opened = Image::open(path, options);
    Content content;
    EXPECT_TRUE(opened.has_value()) << opened.error().message;
    if (!opened) return content;
    const Image* const image = opened->get();
    EXPECT_TRUE(image
                    ->map(0, image->virtual_size(),
                          [&](const MapExtent& run) {
                            for (uint64_t at = run.start; run.data && at < run.start + run.length;
                                 at += kPageSize) {
                              const test::Page page = test::read_page(*image, at / kPageSize);
                              uint64_t hash = 0;
                              for (const std::byte byte : page)
                                hash = hash * 31 + static_cast<uint64_t>(byte);
                              if (page != kZeroPage) content[at / kPageSize] = hash;
                            }
                          })
                    .has_value());
    return content;
  }

  Result<void> rebase(const std::optional<Base>& base, Access access = Access::kReadWrite) {
    OpenOptions options;
    options.access = access;
    options.base = BaseAccess::kFollow;
    PCOW_TRY_ASSIGN(const auto image, Image::open(path_, options));
    PCOW_TRY(image->rebase(base, {}));
    return image->close();
  }
  Result<void> commit_to_base(bool keep_pages = false) {
    OpenOptions options;
    options.access = Access::kReadWrite;
    options.base = BaseAccess::kFollow;
    PCOW_TRY_ASSIGN(const auto image, Image::open(path_, options));
    PCOW_TRY(image->commit_to_base(keep_pages, {}));
    return image->close();
  }

  const test::TempDir dir_;
  const std::string old_ = dir_.file("old.pcow");
  const std::string new_ = dir_.file("new.pcow");
  const std::string raw_ = dir_.file("base.raw");
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_F(RebaseTest, KeepsWhatIsShown) {
  make_image(old_, {{0, 1}, {1, 2}, {2, 3}, {600, 4}, {kFar, 5}});
  make_image(new_, {{1, 2}, {2, 33}, {3, 34}, {700, 35}, {kFar, 36}, {kFar + 1, 37}});
  create_on("old.pcow");
  fill(path_, {{2, 21}, {5, 22}, {kFar, 0}});
  const Content before = shown(path_);
  ASSERT_OK(rebase(Base{"new.pcow", BaseFormat::kPcow}));
  EXPECT_EQ(shown(path_), before);
  test::expect_clean_check(path_);
  std::filesystem::remove(old_);
  EXPECT_EQ(shown(path_), before);
  const auto image = test::open_image(path_, Access::kReadOnly);
  EXPECT_EQ(image->info().base->path, "new.pcow");
  // 0, 2, 3, 5, 600, 700, kFar and kFar + 1; what both show the same is not copied.
  EXPECT_EQ(image->info().allocated_bytes, 8 * kPageSize);
}

TEST_F(RebaseTest, ToNoneAndToRawAndToASmallerOne) {
  make_image(old_, {{0, 1}, {1, 2}, {kFar, 5}});
  make_raw(raw_, 3, "tail");
  make_image(new_, {{0, 7}}, kChunkSize);
  for (const std::optional<Base>& base :
       {std::optional<Base>(), std::optional(Base{"base.raw", BaseFormat::kRaw}),
        std::optional(Base{new_, BaseFormat::kPcow})}) {
    create_on("old.pcow");
    fill(path_, {{1, 21}});
    const Content before = shown(path_);
    ASSERT_OK(rebase(base));
    EXPECT_EQ(shown(path_), before);
    // And back again: what has been written hides the old base.
    ASSERT_OK(rebase(Base{"old.pcow", BaseFormat::kPcow}));
    EXPECT_EQ(shown(path_), before);
    test::expect_clean_check(path_);
  }
}

// What was dropped by a smaller size does not come back with a larger base.
TEST_F(RebaseTest, KeepsTheEndOfTheBase) {
  make_raw(raw_, 3, "tail");
  make_image(new_, {{0, 7}, {3, 8}, {4, 9}, {kFar, 10}});
  create_on("base.raw", BaseFormat::kRaw, kSize);
  const Content before = shown(path_);
  EXPECT_EQ(before.size(), 4u);
  ASSERT_OK(rebase(Base{"new.pcow", BaseFormat::kPcow}));
  EXPECT_EQ(shown(path_), before);
  test::expect_clean_check(path_);
}

TEST_F(RebaseTest, UnsafeChangesTheReferenceOnly) {
  make_image(old_, {{0, 1}});
  make_image(new_, {{0, 2}, {1, 3}});
  create_on("old.pcow");
  {
    const auto image = test::open_image(path_);
    ASSERT_OK(image->create_snapshot("one"));
    ASSERT_OK(image->set_base(Base{"new.pcow", BaseFormat::kPcow}));
    ASSERT_OK(image->close());
  }
  EXPECT_EQ(shown(path_), shown(new_));
  EXPECT_EQ(test::open_image(path_, Access::kReadOnly)->info().allocated_bytes, 0u);
  {
    const auto image = test::open_image(path_);
    ASSERT_OK(image->set_base(std::nullopt));
    ASSERT_OK(image->close());
  }
  EXPECT_TRUE(shown(path_).empty());
  EXPECT_FALSE(test::open_image(path_, Access::kReadOnly)->info().base);
  test::expect_clean_check(path_);
}

TEST_F(RebaseTest, RefusalsChangeNothing) {
  make_image(old_, {{0, 1}});
  create_on("old.pcow");
  const auto bytes = [&] { return test::file_bytes(path_, 0, 4 * kMiB); };
  std::string before = bytes();
  EXPECT_EQ(rebase(Base{"missing.pcow", BaseFormat::kPcow}).error().code, Code::kNotFound);
  EXPECT_EQ(rebase(Base{"vm.pcow", BaseFormat::kPcow}).error().code, Code::kInvalid);
  EXPECT_EQ(rebase(Base{"old.pcow", BaseFormat::kPcow}, Access::kReadOnly).error().code,
            Code::kInvalid);
  EXPECT_EQ(bytes(), before);

  // The new base is based on the image.
  CreateOptions options;
  options.log_size = 4 * kMiB;
  options.base = Base{"vm.pcow", BaseFormat::kPcow};
  ASSERT_OK(Image::create(new_, options));
  const Result<void> circle = rebase(Base{"new.pcow", BaseFormat::kPcow});
  ASSERT_FALSE(circle.has_value());
  EXPECT_THAT(circle.error().message, HasSubstr("its own base"));
  EXPECT_EQ(bytes(), before);

  ASSERT_OK(test::open_image(path_)->create_snapshot("one"));
  ASSERT_OK(test::open_image(path_)->close());
  before = bytes();
  EXPECT_EQ(rebase(std::nullopt).error().code, Code::kUnsupported);
  EXPECT_EQ(bytes(), before);
  EXPECT_EQ(commit_to_base().error().code, Code::kUnsupported);
  EXPECT_EQ(bytes(), before);

  test::create_image(dir_.file("alone.pcow"), kSize, 4 * kMiB);
  const auto alone = test::open_image(dir_.file("alone.pcow"));
  EXPECT_EQ(alone->rebase(Base{"old.pcow", BaseFormat::kPcow}, {}).error().code, Code::kInvalid);
  EXPECT_EQ(alone->commit_to_base(false, {}).error().code, Code::kInvalid);
}

TEST_F(RebaseTest, CommitsIntoAnImage) {
  make_image(old_, {{0, 1}, {1, 2}, {2, 3}, {kFar, 5}});
  create_on("old.pcow");
  fill(path_, {{0, 11}, {1, 0}, {9, 12}, {kFar + 1, 13}, {2, 3}});
  const Content before = shown(path_);
  ASSERT_OK(commit_to_base());
  EXPECT_EQ(shown(path_), before);
  EXPECT_EQ(shown(old_), before);
  EXPECT_EQ(test::open_image(path_, Access::kReadOnly)->info().allocated_bytes, 0u);
  EXPECT_EQ(test::read_superblock(path_, 0).base.next_generation, 0u);
  test::expect_clean_check(path_);
  test::expect_clean_check(old_);
  // Nothing more to do.
  ASSERT_OK(commit_to_base(true));
  EXPECT_EQ(shown(path_), before);
}

TEST_F(RebaseTest, CommitsIntoARawFile) {
  make_raw(raw_, 3, "tail");
  create_on("base.raw", BaseFormat::kRaw, 4 * kMiB);
  fill(path_, {{0, 11}, {1, 0}});
  const Content before = shown(path_);
  ASSERT_OK(commit_to_base(true));
  EXPECT_EQ(shown(path_), before);
  EXPECT_EQ(std::filesystem::file_size(raw_), 3 * kPageSize + 4);
  EXPECT_EQ(test::open_image(path_, Access::kReadOnly)->info().allocated_bytes, 2 * kPageSize);
  const test::Page first = page_of(11);
  EXPECT_EQ(test::file_bytes(raw_, 0, kPageSize),
            std::string(reinterpret_cast<const char*>(first.data()), kPageSize));
  EXPECT_EQ(test::file_bytes(raw_, kPageSize, kPageSize), std::string(kPageSize, '\0'));
  EXPECT_EQ(test::file_bytes(raw_, 3 * kPageSize, 100), "tail");
  // What has no place in it.
  fill(path_, {{4, 1}});
  EXPECT_EQ(commit_to_base().error().code, Code::kInvalid);
}

// Where the image was smaller for a while the base does not show; then it shows zeros as well.
TEST_F(RebaseTest, CommitsWhatIsHiddenByASmallerSize) {
  make_image(old_, {{0, 1}, {700, 2}, {kFar, 3}});
  create_on("old.pcow");
  {
    const auto image = test::open_image(path_);
    ASSERT_OK(image->resize(kChunkSize, true));
    ASSERT_OK(image->resize(kGiB, false));
    ASSERT_OK(image->close());
  }
  const Content before = shown(path_);
  EXPECT_EQ(before.size(), 1u);
  const uint64_t beyond = shown(old_).at(kFar);
  ASSERT_OK(commit_to_base());
  EXPECT_EQ(shown(path_), before);
  Content expected = before;
  expected[kFar] = beyond;
  EXPECT_EQ(shown(old_), expected);
}

TEST_F(RebaseTest, ABaseThatIsUsedChangedOrHasSnapshotsIsNotWritten) {
  make_image(old_, {{0, 1}});
  create_on("old.pcow");
  fill(path_, {{0, 2}});
  const auto bytes = [&] { return test::file_bytes(old_, 0, 4 * kMiB); };
  const std::string before = bytes();
  const std::string image_before = test::file_bytes(path_, 0, 4 * kMiB);
  {
    const auto reader = test::open_image(old_, Access::kReadOnly);
    EXPECT_EQ(commit_to_base().error().code, Code::kBusy);
  }
  EXPECT_EQ(test::read_superblock(path_, 0).base.next_generation, 0u);
  EXPECT_EQ(test::file_bytes(path_, 0, 4 * kMiB), image_before);
  EXPECT_EQ(bytes(), before);
  {
    const auto image = test::open_image(old_);
    ASSERT_OK(image->create_snapshot("one"));
    ASSERT_OK(image->close());
  }
  EXPECT_EQ(commit_to_base().error().code, Code::kCorrupt);  // changed
  create_on("old.pcow");
  fill(path_, {{0, 2}});
  EXPECT_EQ(commit_to_base().error().code, Code::kUnsupported);
}

struct Fault {
  test::Call call;
  int sys_errno;
};

class RebaseFaultTest : public RebaseTest, public ::testing::WithParamInterface<Fault> {
 protected:
  // Runs `work` until the nth call of the kind is not made any more.
  void for_every_call(const std::function<void()>& prepare,
                      const std::function<Result<void>()>& work,
                      const std::function<void(const Content&)>& verify) {
    for (uint64_t nth = 1;; nth += test::fault_step()) {
      SCOPED_TRACE(test::call_name(GetParam().call) + " " + std::to_string(nth));
      prepare();
      const Content before = shown(path_);
      bool hit = false;
      {
        const test::FaultPlan plan(GetParam().call, nth, GetParam().sys_errno);
        (void)work();
        hit = plan.hit();
      }
      verify(before);
      if (!hit || HasFatalFailure()) return;
    }
  }
};

TEST_P(RebaseFaultTest, RebaseLeavesTheOldBaseOrTheNewOne) {
  make_image(old_, {{0, 1}, {1, 2}, {kFar, 5}});
  make_image(new_, {{1, 33}, {700, 35}, {kFar, 36}});
  for_every_call(
      [&] {
        create_on("old.pcow");
        fill(path_, {{2, 21}});
      },
      [&] {
        return rebase(Base{"new.pcow", BaseFormat::kPcow});
      },
      [&](const Content& before) {
        EXPECT_EQ(shown(path_), before);
        ASSERT_OK(test::open_image(path_)->close());
        EXPECT_EQ(shown(path_), before);
        test::expect_clean_check(path_, true);
      });
}

TEST_P(RebaseFaultTest, CommitLeavesTheImageAsItWas) {
  for (const BaseFormat format : {BaseFormat::kPcow, BaseFormat::kRaw}) {
    const std::string base = format == BaseFormat::kPcow ? old_ : raw_;
    for_every_call(
        [&] {
          std::filesystem::remove(old_);
          make_image(old_, {{0, 1}, {1, 2}, {kFar, 5}});
          make_raw(raw_, 600, "");
          create_on(base, format, format == BaseFormat::kRaw ? 4 * kMiB : 0);
          fill(path_, {{0, 11}, {1, 0}, {3, 12}});
        },
        [&] { return commit_to_base(); },
        [&](const Content& before) {
          EXPECT_EQ(shown(path_), before);
          ASSERT_OK(commit_to_base());
          EXPECT_EQ(shown(path_), before);
          EXPECT_EQ(test::open_image(path_, Access::kReadOnly)->info().allocated_bytes, 0u);
          test::expect_clean_check(path_, true);
          if (format == BaseFormat::kPcow) test::expect_clean_check(old_, true);
        });
  }
}

INSTANTIATE_TEST_SUITE_P(
    Calls, RebaseFaultTest,
    ::testing::Values(Fault{test::Call::kWrite, EIO}, Fault{test::Call::kFlush, EIO},
                      Fault{test::Call::kReserve, ENOSPC}, Fault{test::Call::kPunch, EIO},
                      Fault{test::Call::kRead, EIO}),
    [](const ::testing::TestParamInfo<Fault>& fault) { return test::call_name(fault.param.call); });

}  // namespace
}  // namespace pcow
