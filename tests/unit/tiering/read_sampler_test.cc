// SPDX-License-Identifier: BSD-3-Clause
//
// Reads are seen page by page, and what was stored is never unmapped. On DAX media too: the lab
// runs these tests there.
#include "tiering/read_sampler.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <set>
#include <vector>

#include "tests/support/temp_dir.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/dirty_tracker.h"

namespace tiering {
namespace {

using pcow::kPageSize;
using testing::must;
using Pages = std::set<uint64_t>;

constexpr uint64_t kPages = 1024;

// A tracked private mapping of a file whose pages all begin with 7.
class ReadSamplerTest : public ::testing::Test {
 protected:
  ReadSamplerTest()
      : file_(open(directory_.file("f").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)) {
    const std::vector<char> content(kPages * kPageSize, 7);
    if (file_ < 0 || write(file_, content.data(), content.size()) != ssize_t(content.size())) {
      throw std::runtime_error("cannot write the file");
    }
    void* area = mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_, 0);
    if (area == MAP_FAILED) throw std::runtime_error("mmap");
    base_ = static_cast<std::byte*>(area);
    must(kernel::advise_no_fork(base_, kPages * kPageSize));
    must(kernel::advise_huge_pages(base_, kPages * kPageSize, kernel::HugePages::kNever));
    must(tracker_->attach(range()));
    must(tracker_->rearm());
  }
  ~ReadSamplerTest() override {
    munmap(base_, kPages * kPageSize);
    ::close(file_);
  }

  AddressRange range() const { return {base_, kPages * kPageSize}; }
  volatile std::byte& at(uint64_t page) const { return base_[page * kPageSize]; }

  std::byte value(uint64_t page) const { return at(page); }

  void read_all() const {
    std::byte sum{};
    for (uint64_t page = 0; page < kPages; ++page) sum |= at(page);
    EXPECT_NE(sum, std::byte{0});
  }

  uint64_t zap() { return must(sampler_.zap(range())); }

  Pages read_since() const {
    Pages pages;
    must(sampler_.collect(range(), [&](AddressRange run) {
      const auto first = static_cast<uint64_t>(run.start - base_) / kPageSize;
      for (uint64_t i = 0; i < run.length / kPageSize; ++i) pages.insert(first + i);
    }));
    return pages;
  }

  void arm() {
    must(tracker_->collect(range(), [](AddressRange) {}));
    must(tracker_->rearm());
  }

  test::TempDir directory_;
  int file_;
  std::byte* base_ = nullptr;
  std::unique_ptr<DirtyTracker> tracker_ =
      must(DirtyTracker::create(TrackerKind::kAuto, Backing::kDax));
  ReadSampler sampler_ = must(ReadSampler::create());
};

TEST_F(ReadSamplerTest, SeesWhichPagesWereRead) {
  read_all();
  EXPECT_EQ(zap(), kPages);
  EXPECT_EQ(read_since(), Pages{});
  for (const uint64_t page : {0U, 5U, 511U, 512U, 1023U}) EXPECT_EQ(value(page), std::byte{7});
  EXPECT_EQ(read_since(), (Pages{0, 5, 511, 512, 1023}));
  EXPECT_EQ(zap(), 5U);
  EXPECT_EQ(read_since(), Pages{});
}

TEST_F(ReadSamplerTest, KeepsWhatWasStored) {
  read_all();
  at(3) = std::byte{1};
  at(4) = std::byte{2};
  EXPECT_EQ(zap(), kPages - 2);
  at(700) = std::byte{3};  // not read before
  EXPECT_EQ(zap(), 0U);
  EXPECT_EQ(value(3), std::byte{1});
  EXPECT_EQ(value(4), std::byte{2});
  EXPECT_EQ(value(700), std::byte{3});
  EXPECT_EQ(read_since(), Pages{});
}

// Whatever the kernel maps at once is seen at once, and nothing is missed.
TEST_F(ReadSamplerTest, SeesHugeMappings) {
  must(kernel::advise_huge_pages(base_, kPages * kPageSize, kernel::HugePages::kAllowed));
  read_all();
  EXPECT_EQ(zap(), kPages);
  EXPECT_EQ(value(600), std::byte{7});
  EXPECT_TRUE(read_since().contains(600));
  EXPECT_LE(read_since().size(), pcow::kPagesPerChunk);
  read_all();
  at(3) = std::byte{1};
  zap();
  EXPECT_EQ(value(3), std::byte{1});
}

// What is armed counts as neither written nor read, and is a private copy all the same.
TEST_F(ReadSamplerTest, KeepsWhatIsArmed) {
  read_all();
  at(3) = std::byte{1};
  arm();
  EXPECT_EQ(zap(), kPages - 1);
  EXPECT_EQ(value(3), std::byte{1});
  EXPECT_EQ(value(9), std::byte{7});
  EXPECT_EQ(read_since(), Pages{9});
  at(9) = std::byte{4};
  EXPECT_EQ(read_since(), Pages{});
  Pages written;
  must(tracker_->collect(range(), [&](AddressRange run) {
    written.insert(static_cast<uint64_t>(run.start - base_) / kPageSize);
  }));
  EXPECT_TRUE(written.contains(9));
}

// Zeros that nobody stored are no copies, and zeros that somebody stored are.
TEST_F(ReadSamplerTest, TellsZerosFromZeros) {
  void* holes = mmap(base_, kPages * kPageSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  ASSERT_NE(holes, MAP_FAILED);
  must(kernel::advise_huge_pages(base_, kPages * kPageSize, kernel::HugePages::kNever));
  must(tracker_->attach(range()));
  must(tracker_->rearm());
  EXPECT_EQ(value(1), std::byte{0});
  at(2) = std::byte{0};
  at(3) = std::byte{5};
  EXPECT_EQ(zap(), 1U);
  EXPECT_EQ(value(2), std::byte{0});
  EXPECT_EQ(value(3), std::byte{5});
  EXPECT_EQ(zap(), 0U);
}

}  // namespace
}  // namespace tiering
