// SPDX-License-Identifier: BSD-3-Clause
//
// Checksums of frozen data: they find what rots, never what a writer did.
#include <pcow/scrub.h>

#include <cerrno>

#include "tests/support/image_views.h"
#include "tests/support/syscall_faults.h"
#include "tests/unit/pcow/layered_image.h"

namespace pcow {
namespace {

class ScrubTest : public LayeredImageTest {
 protected:
  void SetUp() override { make_image(); }

  uint64_t add() {
    const auto added = add_checksums(path_, {});
    EXPECT_TRUE(added.has_value()) << added.error().message;
    return added.value_or(0);
  }
  ScrubReport scrub() {
    auto report = scrub_image(path_, {});
    EXPECT_TRUE(report.has_value()) << report.error().message;
    return report ? *std::move(report) : ScrubReport{};
  }
  // Nothing is wrong, and this many pages are known to be right.
  void expect_sound(uint64_t verified) {
    const ScrubReport report = scrub();
    EXPECT_EQ(report.check.messages, std::vector<std::string>{});
    EXPECT_TRUE(report.bad.empty());
    EXPECT_EQ(report.verified_pages, verified);
  }
  // Where a page of a view lies in the file.
  uint64_t place_of(const std::string& snapshot, uint64_t page) {
    OpenOptions options;
    if (!snapshot.empty()) options.snapshot = snapshot;
    const auto image = Image::open(path_, options);
    uint64_t place = 0;
    EXPECT_TRUE((*image)->map(page * kPageSize, kPageSize,
                              [&](const MapExtent& run) { place = run.file_offset.value_or(0); }));
    return place;
  }
  // The table that owns the window at a place.
  uint64_t table_of(uint64_t place) {
    const uint64_t segment = place / kSegmentSize;
    const auto root = test::read_block(path_, format::kRootOffset).as<format::RootBlock>();
    return test::read_block(path_, root.segment_table[0])
        .as<format::SegmentTableBlock>()
        .entries[segment]
        .owner;
  }
};

TEST_F(ScrubTest, CoversWhatSnapshotsKeep) {
  const test::Views views = test::views_of(path_);
  const uint64_t generation = test::read_superblock(path_, 0).generation;
  ScrubReport report = scrub();
  EXPECT_EQ(report.verified_pages, 0u);
  EXPECT_EQ(report.unverified_pages, 8u);
  EXPECT_EQ(report.active_pages, 3u);
  EXPECT_EQ(add(), 8u);
  EXPECT_EQ(test::read_superblock(path_, 0).generation, generation);
  EXPECT_EQ(test::views_of(path_), views);
  report = scrub();
  EXPECT_EQ(report.unverified_pages, 0u);
  EXPECT_EQ(report.active_pages, 3u);
  expect_sound(8);
  // There is nothing more to do, and what is there stays.
  EXPECT_EQ(add(), 0u);
  expect_sound(8);
}

TEST_F(ScrubTest, FindsWhatRotted) {
  EXPECT_EQ(add(), 8u);
  struct Case {
    const char* snapshot;
    uint64_t page;
  };
  for (const Case& rotten : {Case{"old", 512}, Case{"old", kPagesPerSegment + 3}, Case{"new", 8},
                             Case{"new", 5 * kPagesPerChunk}}) {
    const uint64_t place = place_of(rotten.snapshot, rotten.page);
    test::flip_bit(path_, place + 1234);
    test::expect_clean_check(path_);  // no other check sees it
    const ScrubReport report = scrub();
    ASSERT_EQ(report.bad.size(), 1u);
    const BadWindow& bad = report.bad.front();
    EXPECT_EQ(bad.guest_offset, rotten.page / kPagesPerChunk * kChunkSize);
    EXPECT_EQ(bad.file_offset, place / kWindowSize * kWindowSize);
    EXPECT_EQ(bad.snapshot, rotten.snapshot);
    EXPECT_EQ(report.check.corruptions, 0u);
    EXPECT_EQ(add(), 0u);  // does not make it right
    EXPECT_EQ(scrub().bad.size(), 1u);
    test::flip_bit(path_, place + 1234);
  }
  expect_sound(8);
}

// Whatever a writer does to layers afterwards, no checksum is wrong.
TEST_F(ScrubTest, FollowsWhatWritersDo) {
  EXPECT_EQ(add(), 8u);
  const auto change = [&](const std::function<Result<void>(Image&)>& operation) {
    {
      const auto image = test::open_image(path_);
      ASSERT_OK(operation(*image));
      ASSERT_OK(image->close());
    }
    const ScrubReport report = scrub();
    EXPECT_TRUE(report.bad.empty());
    EXPECT_TRUE(report.check.messages.empty()) << report.check.messages.front();
  };
  change([](Image& image) -> Result<void> {
    write(image, {0, 1, 7, 8, 513, kPagesPerSegment}, 4);
    return {};
  });
  expect_sound(8);
  change([](Image& image) { return image.create_snapshot("newest"); });
  expect_sound(8);
  EXPECT_GT(add(), 0u);
  change([](Image& image) { return image.delete_snapshot("new"); });
  add();
  change([](Image& image) { return image.apply_snapshot("old"); });
  add();
  change([](Image& image) -> Result<void> {
    write(image, {0, 2, 512, 700}, 5);
    return {};
  });
  change([](Image& image) { return image.resize(kGiB + 2 * kChunkSize, true); });
  add();
  change([](Image& image) { return image.delete_snapshot("newest"); });
  add();
  // The last one: its tables become the image's own, and change in place.
  change([](Image& image) { return image.delete_snapshot("old"); });
  EXPECT_EQ(scrub().verified_pages, 0u);
  change([](Image& image) -> Result<void> {
    write(image, {0, 7, 512, kPagesPerSegment + 3}, 6);
    return {};
  });
  change([](Image& image) { return image.create_snapshot("again"); });
  add();
  EXPECT_EQ(scrub().unverified_pages, 0u);
}

// Both ways of merging two layers, whose pages move.
TEST_F(ScrubTest, FollowsPagesThatMove) {
  for (const bool to_child : {true, false}) {
    const std::string path = dir_.file(to_child ? "child.pcow" : "parent.pcow");
    test::create_image(path, kGiB, format::kMinLogSize);
    const std::vector<uint64_t> many = {0, 1, 2, 3, 512, 513, 514};
    const std::vector<uint64_t> few = {0, 600};
    {
      const auto image = test::open_image(path);
      write(*image, to_child ? few : many, 1);
      ASSERT_OK(image->create_snapshot("a"));
      write(*image, to_child ? many : few, 2);
      ASSERT_OK(image->create_snapshot("b"));
      ASSERT_OK(image->close());
    }
    ASSERT_OK(add_checksums(path, {}));
    test::Views views = test::views_of(path);
    {
      const auto image = test::open_image(path);
      ASSERT_OK(image->delete_snapshot("a"));
      ASSERT_OK(image->close());
    }
    views.erase("a");
    EXPECT_EQ(test::views_of(path), views);
    const auto report = scrub_image(path, {});
    ASSERT_OK(report);
    EXPECT_TRUE(report->bad.empty());
    EXPECT_TRUE(report->check.messages.empty()) << report->check.messages.front();
    ASSERT_OK(add_checksums(path, {}));
    EXPECT_EQ(scrub_image(path, {})->unverified_pages, 0u);
  }
}

// A version that does not keep checksums clears the bit; they mean nothing then.
TEST_F(ScrubTest, ForgetsWhatOtherVersionsDidNotKeep) {
  EXPECT_EQ(add(), 8u);
  test::forge_superblocks(path_, [](format::Superblock& sb) { sb.autoclear = 0; });
  test::patch_file(path_, table_of(place_of("", 9)) + format::kDataChecksumsOffset, "of then");
  test::flip_bit(path_, place_of("old", 512) + 5);  // let it be a change that they know nothing of
  test::expect_clean_check(path_);
  EXPECT_EQ(scrub().verified_pages, 0u);
  EXPECT_EQ(add(), 8u);
  expect_sound(8);
}

TEST_F(ScrubTest, DamagedChecksumsAreDroppedByARepair) {
  EXPECT_EQ(add(), 8u);
  const test::Views views = test::views_of(path_);
  const uint64_t place = place_of("old", 512);
  test::flip_bit(path_, table_of(place) + format::kDataChecksumsOffset + 8);
  const ScrubReport report = scrub();
  EXPECT_EQ(report.check.corruptions, 1u);
  EXPECT_TRUE(report.bad.empty());
  const auto repair = repair_image(path_, Repair::kAll, {});
  ASSERT_OK(repair);
  EXPECT_TRUE(repair->refused.empty());
  expect_sound(7);
  EXPECT_EQ(test::views_of(path_), views);
  EXPECT_EQ(add(), 1u);
  expect_sound(8);
}

// A checksum of one table is none in another, nor at another chunk.
TEST_F(ScrubTest, MisplacedChecksumsAreFound) {
  EXPECT_EQ(add(), 8u);
  const uint64_t from = table_of(place_of("old", 512)) + format::kDataChecksumsOffset;
  const std::string checksum = test::file_bytes(path_, from, 8);
  ASSERT_NE(checksum, std::string(8, '\0'));
  test::patch_file(path_, from + 8, checksum);
  EXPECT_EQ(scrub().check.corruptions, 1u);
}

TEST_F(ScrubTest, NeedsNoWriter) {
  const auto writer = test::open_image(path_);
  EXPECT_EQ(scrub_image(path_, {}).error().code, Code::kBusy);
  EXPECT_EQ(add_checksums(path_, {}).error().code, Code::kBusy);
}

TEST_F(ScrubTest, MayFailAnywhereAndBeRepeated) {
  const test::Views views = test::views_of(path_);
  uint64_t failed = 0;
  for (const test::Call call : test::kMediumCalls) {
    for (uint64_t nth = 1;; nth += test::fault_step()) {
      ASSERT_LT(nth, 300u);
      bool hit = false;
      {
        const test::FaultPlan plan(call, nth, EIO);
        const auto added = add_checksums(path_, {});
        hit = plan.hit();
        if (!added) ++failed;
      }
      const auto repaired = repair_image(path_, Repair::kLeaks, {});
      ASSERT_OK(repaired);
      const ScrubReport report = scrub();
      EXPECT_TRUE(report.bad.empty()) << test::call_name(call) << " " << nth;
      EXPECT_TRUE(report.check.messages.empty()) << report.check.messages.front();
      add();
      expect_sound(8);
      EXPECT_EQ(test::views_of(path_), views);
      if (!hit || ::testing::Test::HasFailure()) break;
      // None of them again.
      test::forge_superblocks(path_, [](format::Superblock& sb) { sb.autoclear = 0; });
    }
  }
  EXPECT_GT(failed, 10u);
}

}  // namespace
}  // namespace pcow
