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

std::set<uint64_t> collect(DirtyTracker& tracker, const Memory& memory) {
  std::set<uint64_t> pages;
  must(tracker.collect(memory.range(), [&](AddressRange run) {
    const auto first = static_cast<uint64_t>(run.start - memory.range().start) / kPageSize;
    for (uint64_t i = 0; i < run.length / kPageSize; ++i) pages.insert(first + i);
  }));
  must(tracker.rearm());
  return pages;
}

using Pages = std::set<uint64_t>;

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
