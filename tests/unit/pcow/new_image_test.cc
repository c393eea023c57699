// SPDX-License-Identifier: BSD-3-Clause
//
// Images that get their names when they are complete, and what an error or a crash on the way to
// that leaves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pcow/new_image.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <set>

#include "tests/support/image_fixture.h"
#include "tests/support/syscall_faults.h"

namespace pcow {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::UnorderedElementsAre;

constexpr uint64_t kSize = 64 * kMiB;
constexpr uint64_t kOld = 3;  // the pattern in page 0 of what is replaced
constexpr uint64_t kNew = 4;  // and of what replaces it

class NewImageTest : public testing::Test {
 protected:
  std::string file(const std::string& name) const { return dir_.file(name); }

  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(dir_.path())) {
      found.insert(entry.path().filename().string());
    }
    return found;
  }

  static CreateOptions options(bool overwrite = false) {
    CreateOptions options;
    options.stripe = {"a.1", "a.2", "a.3"};
    options.stripe_unit = kWindowSize;
    options.overwrite = overwrite;
    return options;
  }

  // Makes a set that has a page with this pattern in each of its files.
  Result<void> make_set(const CreateOptions& options, uint64_t pattern) const {
    PCOW_TRY_ASSIGN(NewImage image, NewImage::plan(file("a"), options));
    {
      PCOW_TRY_ASSIGN(const std::unique_ptr<Image> open, image.create(kSize));
      const test::Page data = test::pattern_page(pattern);
      for (uint64_t chunk = 0; chunk < 4; ++chunk) {
        const PageWrite write{PageIndex(chunk * kPagesPerChunk), data.data()};
        PCOW_TRY(open->write_pages({&write, 1}));
      }
      PCOW_TRY(open->commit());
      PCOW_TRY(open->close());
    }
    return image.publish();
  }

  // The pattern that the image has in all four files, or 0 if it is refused, which has to be for
  // one of its files.
  uint64_t pattern_in_set() const {
    auto image = Image::open(file("a"), {});
    if (!image) {
      EXPECT_THAT(image.error().message, testing::HasSubstr("'" + file("a")))
          << image.error().message;
      return 0;
    }
    for (const uint64_t pattern : {kOld, kNew}) {
      if (test::read_page(**image, 0) != test::pattern_page(pattern)) continue;
      for (uint64_t chunk = 1; chunk < 4; ++chunk) {
        EXPECT_EQ(test::read_page(**image, chunk * kPagesPerChunk), test::pattern_page(pattern));
      }
      test::expect_clean_check(file("a"));
      return pattern;
    }
    ADD_FAILURE() << "neither the old nor the new content";
    return 0;
  }

  // Replaces the set in a process that ends at the nth of these calls. Returns whether it did.
  bool crash_at(test::Call call, uint64_t nth, bool overwrite) const {
    const pid_t child = fork();
    if (child == 0) {
      const test::FaultPlan plan(call, nth, test::kCrash);
      _exit(make_set(options(overwrite), kNew) ? 0 : 1);
    }
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    const int code = WEXITSTATUS(status);
    EXPECT_TRUE(code == 0 || code == test::kCrashExit) << code;
    return code == test::kCrashExit;
  }

  const test::TempDir dir_;
};

TEST_F(NewImageTest, AppearsWhenPublished) {
  auto image = NewImage::plan(file("a"), options());
  ASSERT_OK(image);
  EXPECT_THAT(names(), ElementsAre());
  {
    auto open = image->create(kSize);
    ASSERT_OK(open);
    test::write_page(**open, 0, test::pattern_page(kNew));
    EXPECT_EQ(names().size(), 4u);
    EXPECT_FALSE(fs::exists(file("a")) || fs::exists(file("a.1")));
    EXPECT_EQ(image->publish().error().code, Code::kBusy);  // it is still open
    ASSERT_OK((*open)->commit());
  }
  EXPECT_EQ(image->publish().error().code, Code::kInvalid);  // it was not closed
  EXPECT_FALSE(fs::exists(file("a")) || fs::exists(file("a.1")));
}

TEST_F(NewImageTest, LeavesNothingUnlessPublished) {
  {
    auto image = NewImage::plan(file("a"), options());
    ASSERT_OK(image);
    ASSERT_OK(image->create(kSize));
    EXPECT_EQ(names().size(), 4u);
  }
  EXPECT_THAT(names(), ElementsAre());
}

TEST_F(NewImageTest, MakesASetAndReplacesIt) {
  ASSERT_OK(make_set(options(), kOld));
  EXPECT_THAT(names(), UnorderedElementsAre("a", "a.1", "a.2", "a.3"));
  EXPECT_EQ(pattern_in_set(), kOld);
  EXPECT_EQ(NewImage::plan(file("a"), options()).error().code, Code::kExists);
  ASSERT_OK(make_set(options(true), kNew));
  EXPECT_THAT(names(), UnorderedElementsAre("a", "a.1", "a.2", "a.3"));
  EXPECT_EQ(pattern_in_set(), kNew);
}

TEST_F(NewImageTest, FilesElsewhereGetLinksAtTheEnd) {
  fs::create_directory(file("other"));
  CreateOptions wanted = options();
  wanted.stripe = {"other/a.1"};
  {
    auto image = NewImage::plan(file("a"), wanted);
    ASSERT_OK(image);
    auto open = image->create(kSize);
    ASSERT_OK(open);
    EXPECT_FALSE(fs::is_symlink(file("a.1")));
    ASSERT_OK((*open)->close());
    ASSERT_OK(image->publish());
  }
  EXPECT_EQ(fs::read_symlink(file("a.1")), file("other/a.1"));
  test::expect_clean_check(file("a"));
}

TEST_F(NewImageTest, NamesThatAreTakenMeanwhileAreNotReplaced) {
  for (const std::string name : {"a", "a.2"}) {
    {
      auto image = NewImage::plan(file("a"), options());
      ASSERT_OK(image);
      auto open = image->create(kSize);
      ASSERT_OK(open);
      ASSERT_OK((*open)->close());
      test::write_file(file(name), "precious");
      EXPECT_EQ(image->publish().error().code, Code::kExists);
    }
    EXPECT_THAT(names(), ElementsAre(name));
    EXPECT_EQ(test::file_bytes(file(name), 0, 8), "precious");
    fs::remove(file(name));
  }
}

// Whatever fails: what was there is there, and nothing else.
TEST_F(NewImageTest, AnErrorLeavesWhatWasThere) {
  for (const bool overwrite : {false, true}) {
    if (overwrite) ASSERT_OK(make_set(options(), kOld));
    const std::set<std::string> before = names();
    const auto put_back = [&] {
      if (overwrite) ASSERT_OK(make_set(options(true), kOld));
      for (const std::string& name : names()) {
        if (!overwrite) fs::remove(file(name));
      }
    };
    for (const test::Call call : {test::Call::kRename, test::Call::kOpen, test::Call::kFlush}) {
      uint64_t hits = 0;
      bool hit = true;
      for (uint64_t nth = 1; hit; nth += test::fault_step()) {
        SCOPED_TRACE(test::call_name(call) + " " + std::to_string(nth));
        Result<void> made;
        {
          const test::FaultPlan plan(call, nth, EIO);
          made = make_set(options(overwrite), kNew);
          hit = plan.hit();
        }
        if (hit) ++hits;
        if (made) {
          EXPECT_EQ(pattern_in_set(), kNew);
          put_back();
          continue;
        }
        EXPECT_TRUE(hit) << made.error().message;
        if (!overwrite || pattern_in_set() == kOld) {
          EXPECT_EQ(names(), before) << made.error().message;
        } else {
          // The last step of all: the directory. The new image is there.
          EXPECT_EQ(pattern_in_set(), kNew);
          EXPECT_EQ(names().size(), 4u);
          put_back();
        }
      }
      EXPECT_GE(hits * test::fault_step(), 4u);
    }
  }
}

// Wherever it ends: the old set, the new one, or none that is shown; and it can be made again.
TEST_F(NewImageTest, ACrashBetweenMembersShowsNoMixture) {
  for (const bool overwrite : {false, true}) {
    std::set<uint64_t> seen;
    for (const test::Call call : {test::Call::kRename, test::Call::kFlush}) {
      bool crashed = true;
      for (uint64_t nth = 1; crashed; ++nth) {
        if (overwrite) ASSERT_OK(make_set(options(), kOld));
        crashed = crash_at(call, nth, overwrite);
        const uint64_t pattern = pattern_in_set();
        EXPECT_TRUE(crashed || pattern == kNew);
        seen.insert(pattern);
        for (const std::string& name : names()) fs::remove(file(name));
      }
    }
    EXPECT_EQ(seen.contains(0), true);
    EXPECT_EQ(seen.contains(kOld), overwrite);
  }
}

}  // namespace
}  // namespace pcow
