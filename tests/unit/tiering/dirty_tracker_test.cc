// SPDX-License-Identifier: BSD-3-Clause
//
// Both trackers against this kernel. Where the kernel lacks what one needs, the test asserts that
// it says so: nothing is skipped.
#include "tiering/dirty_tracker.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <set>
#include <tuple>
#include <vector>

#include "tests/unit/tiering/fixture.h"
#include "tiering/kernel/pagemap.h"
#include "tiering/kernel/soft_dirty.h"

namespace tiering {
namespace {

using pcow::kPageSize;
using testing::must;

constexpr uint64_t kPages = 600;

// A private mapping, of a file or anonymous.
class Memory {
 public:
  explicit Memory(int fd = -1, int advice = MADV_NOHUGEPAGE) {
    void* area = mmap(nullptr, kPages * kPageSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);
    if (area == MAP_FAILED) throw std::runtime_error("mmap");
    base_ = static_cast<std::byte*>(area);
    madvise(base_, kPages * kPageSize, advice);
  }
  ~Memory() { munmap(base_, kPages * kPageSize); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  AddressRange range() const { return {base_, kPages * kPageSize}; }
  volatile std::byte& at(uint64_t page) const { return base_[page * kPageSize]; }

 private:
  std::byte* base_;
};

using Pages = std::set<uint64_t>;

Pages collect(DirtyTracker& tracker, const Memory& memory) {
  Pages seen;
  Pages pages;
  const auto add_to = [&](Pages& set) {
    return [&](AddressRange run) {
      const auto first = static_cast<uint64_t>(run.start - memory.range().start) / kPageSize;
      for (uint64_t i = 0; i < run.length / kPageSize; ++i) set.insert(first + i);
    };
  };
  must(tracker.find_dirty(memory.range(), add_to(seen)));
  must(tracker.collect(memory.range(), add_to(pages)));
  EXPECT_EQ(seen, pages);
  must(tracker.rearm());
  return pages;
}

// Written pages are found once each time they are written; read ones never, except where the
// tracker says that it may.
void follow_writes(DirtyTracker& tracker, const Memory& memory) {
  must(tracker.attach(memory.range()));
  must(tracker.rearm());
  EXPECT_EQ(collect(tracker, memory), Pages{});
  std::byte sum{};
  for (uint64_t page = 0; page < 10; ++page) sum |= memory.at(page);
  const Pages after_reads = collect(tracker, memory);
  if (!tracker.may_report_clean()) {
    EXPECT_EQ(after_reads, Pages{});
  }
  memory.at(3) = std::byte{1};
  memory.at(4) = std::byte{1};
  memory.at(599) = std::byte{1};
  EXPECT_EQ(collect(tracker, memory), (Pages{3, 4, 599}));
  EXPECT_EQ(collect(tracker, memory), Pages{});
  memory.at(4) = std::byte{2};
  EXPECT_EQ(collect(tracker, memory), Pages{4});
  // A system call writes through the page table like everybody else.
  const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(read(zero, const_cast<std::byte*>(&memory.at(3)), 16), 16);
  ::close(zero);
  EXPECT_EQ(collect(tracker, memory), Pages{3});
}

class DirtyTrackerTest : public ::testing::TestWithParam<std::tuple<TrackerKind, Backing>> {
 protected:
  static TrackerKind kind() { return std::get<0>(GetParam()); }

  // Null when this kernel has no such tracker, which then has been asserted.
  std::unique_ptr<DirtyTracker> make() {
    auto tracker = DirtyTracker::create(kind(), std::get<1>(GetParam()));
    if (tracker) return *std::move(tracker);
    EXPECT_EQ(tracker.error().code, pcow::Code::kUnsupported) << tracker.error().message;
    EXPECT_NE(tracker.error().message.find("kernel"), std::string::npos);
    if (kind() == TrackerKind::kSoftDirty) {
      const auto has = kernel::probe_soft_dirty();
      EXPECT_FALSE(has && *has);
    } else {
      std::array<kernel::PageRegion, 1> out;
      const auto scan =
          must(kernel::Pagemap::open()).scan(0, kPageSize, {.any_of = kernel::kPresent}, out);
      EXPECT_FALSE(scan);
    }
    return nullptr;
  }
};

TEST_P(DirtyTrackerTest, FollowsWritesToAnonymousMemory) {
  const auto tracker = make();
  if (!tracker) return;
  EXPECT_EQ(tracker->kind(), kind());
  follow_writes(*tracker, Memory());
}

TEST_P(DirtyTrackerTest, FollowsWritesToAPrivateFileMapping) {
  const auto tracker = make();
  if (!tracker) return;
  const test::TempDir directory;
  const int fd = open(directory.file("data").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  ASSERT_EQ(ftruncate(fd, kPages * kPageSize), 0);
  follow_writes(*tracker, Memory(fd));
  ::close(fd);
}

// What is read is armed as well, and its mark stays when the file's page goes.
TEST_P(DirtyTrackerTest, FollowsWritesToWhatWasReadBefore) {
  const auto tracker = make();
  if (!tracker) return;
  const test::TempDir directory;
  // What the tracker is made for: that directory may be on a DAX medium.
  const int fd = std::get<1>(GetParam()) == Backing::kDax
                     ? open(directory.file("data").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)
                     : memfd_create("data", MFD_CLOEXEC);
  const std::vector<char> content(kPages * kPageSize, 'x');
  ASSERT_EQ(pwrite(fd, content.data(), content.size(), 0), kPages * kPageSize);
  const Memory memory(fd);
  must(tracker->attach(memory.range()));
  must(tracker->rearm());
  const auto read_all = [&] {
    for (uint64_t page = 0; page < kPages; ++page) {
      EXPECT_EQ(std::byte(memory.at(page)), page / 10 == 2 ? std::byte{0} : std::byte{'x'}) << page;
    }
  };
  const auto expect = [&](const Pages& written) {
    const Pages found = collect(*tracker, memory);
    if (!tracker->may_report_clean()) {
      EXPECT_EQ(found, written);
    }
    for (const uint64_t page : written) EXPECT_TRUE(found.contains(page)) << page;
  };
  for (uint64_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(std::byte(memory.at(page)), std::byte{'x'}) << page;
  }
  expect({});
  memory.at(3) = std::byte{'x'};
  expect({3});
  ASSERT_EQ(
      fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 20 * kPageSize, 10 * kPageSize), 0);
  madvise(const_cast<std::byte*>(&memory.at(40)), 10 * kPageSize, MADV_DONTNEED);
  expect({});
  memory.at(22) = std::byte{0};
  memory.at(42) = std::byte{'x'};
  expect({22, 42});
  read_all();
  expect({});
  const Pages both = {22, 23, 42, 43};
  for (const uint64_t page : both) memory.at(page) = std::byte(memory.at(page));
  expect(both);
  read_all();
  ::close(fd);
}

TEST_P(DirtyTrackerTest, FindsWritesThatLieFarApart) {
  const auto tracker = make();
  if (!tracker) return;
  const Memory memory;
  must(tracker->attach(memory.range()));
  must(tracker->rearm());
  for (uint64_t page = 0; page < kPages; ++page) memory.at(page) = std::byte{1};
  EXPECT_EQ(collect(*tracker, memory).size(), kPages);
  for (const uint64_t gap : Pages{1, 2, 15, 16, 17, 18, 63, 64, 65, 66, 200}) {
    Pages written;
    for (uint64_t page = gap; page < kPages; page += gap) {
      memory.at(page) = std::byte{2};
      written.insert(page);
    }
    EXPECT_EQ(collect(*tracker, memory), written) << gap;
  }
}

TEST_P(DirtyTrackerTest, InspectTellsDirtyFromArmed) {
  const auto tracker = make();
  if (!tracker) return;
  const Memory memory;
  must(tracker->attach(memory.range()));
  must(tracker->rearm());
  memory.at(1) = std::byte{1};
  memory.at(2) = std::byte{1};
  EXPECT_EQ(collect(*tracker, memory), (Pages{1, 2}));
  memory.at(2) = std::byte{2};
  Pages dirty;
  Pages resident;
  must(tracker->inspect(memory.range(), [&](AddressRange run, PageState state) {
    const auto first = static_cast<uint64_t>(run.start - memory.range().start) / kPageSize;
    for (uint64_t i = 0; i < run.length / kPageSize; ++i) {
      if (state.dirty) dirty.insert(first + i);
      if (state.resident) resident.insert(first + i);
    }
  }));
  EXPECT_EQ(dirty, Pages{2});
  EXPECT_EQ(resident, (Pages{1, 2}));
}

TEST_P(DirtyTrackerTest, FindsWritesInHugePages) {
  const auto tracker = make();
  if (!tracker) return;
  const Memory memory(-1, MADV_HUGEPAGE);
  must(tracker->attach(memory.range()));
  must(tracker->rearm());
  for (uint64_t page = 0; page < kPages; ++page) memory.at(page) = std::byte{1};
  EXPECT_EQ(collect(*tracker, memory).size(), kPages);
  memory.at(5) = std::byte{2};
  EXPECT_TRUE(collect(*tracker, memory).contains(5));
}

std::string test_name(const ::testing::TestParamInfo<std::tuple<TrackerKind, Backing>>& info) {
  const auto [kind, backing] = info.param;
  return std::string(kind == TrackerKind::kSoftDirty ? "SoftDirty" : "PagemapScan") +
         (backing == Backing::kDax ? "OnDax" : "");
}

INSTANTIATE_TEST_SUITE_P(Kinds, DirtyTrackerTest,
                         ::testing::Combine(::testing::Values(TrackerKind::kPagemapScan,
                                                              TrackerKind::kSoftDirty),
                                            ::testing::Values(Backing::kPageCache, Backing::kDax)),
                         test_name);

TEST(DirtyTrackerProbeTest, AutoPrefersPagemapScan) {
  const auto best = must(DirtyTracker::create(TrackerKind::kAuto, Backing::kPageCache));
  const bool has_scan =
      DirtyTracker::create(TrackerKind::kPagemapScan, Backing::kPageCache).has_value();
  EXPECT_EQ(best->kind(), has_scan ? TrackerKind::kPagemapScan : TrackerKind::kSoftDirty);
}

TEST(DirtyTrackerProbeTest, OnlyOneRegionPerProcessUsesSoftDirtyBits) {
  const auto first = DirtyTracker::create(TrackerKind::kSoftDirty, Backing::kPageCache);
  const auto second = DirtyTracker::create(TrackerKind::kSoftDirty, Backing::kPageCache);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, pcow::Code::kUnsupported);
  if (first) {
    EXPECT_NE(second.error().message.find("one region per process"), std::string::npos);
  }
}

TEST(DirtyTrackerProbeTest, LostTrackingIsAnErrorAndNotSilence) {
  const auto tracker = DirtyTracker::create(TrackerKind::kPagemapScan, Backing::kPageCache);
  if (!tracker) {
    EXPECT_EQ(tracker.error().code, pcow::Code::kUnsupported);
    return;
  }
  const Memory memory;
  must((*tracker)->attach(memory.range()));
  // Something maps over a part: the kernel drops the registration there.
  ASSERT_NE(mmap(memory.range().start, kPageSize, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
            MAP_FAILED);
  const auto collected = (*tracker)->collect(memory.range(), [](AddressRange) {});
  ASSERT_FALSE(collected);
  EXPECT_EQ(collected.error().code, pcow::Code::kPermission);
  must((*tracker)->attach(memory.range()));
  EXPECT_TRUE((*tracker)->collect(memory.range(), [](AddressRange) {}));
}

}  // namespace
}  // namespace tiering
