// SPDX-License-Identifier: BSD-3-Clause
//
// Traps in how the kernel reports and unmaps pages, seen on Linux 6.12; trap_fixture.h says how
// they are tested. Those that take a guest are in kvm_traps_test.cc.
#include "tests/lab/broken_trackers.h"
#include "tests/lab/trap_fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace lab {
namespace {

using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using tiering::CommitReport;
using tiering::DirtyTracker;
using tiering::Region;
using tiering::RegionOptions;
using tiering::testing::mark;
using tiering::testing::must;
using tiering::testing::set_mark;

// A region with the product's tracker (null), or with another one. Soft-dirty has none of the traps
// and is not what the product takes where it can choose.
std::unique_ptr<Region> map(pcow::Image& image, RegionOptions options,
                            std::unique_ptr<DirtyTracker> tracker) {
  options.tracker = tiering::TrackerKind::kPagemapScan;
  if (!tracker) return must(Region::map(image, options));
  return must(tiering::map_region(image, options, std::move(tracker)));
}

// --- PAGEMAP_SCAN calls pages written that do not exist -----------------------------------------

void check_only_stores_are_scanned(const std::string& path, Care care) {
  const auto tracker = [&] {
    return care == Care::kTaken ? nullptr : tracker_that_believes_written_alone();
  };
  const auto image = create_filled_image(path, 4 * kChunkSize, 100);
  const auto region = map(*image, {}, tracker());
  // Other pages of the chunk have an empty entry, other chunks have no page table at all.
  const uint64_t hole = 2 * kPagesPerChunk;
  for (const uint64_t page : {hole, hole + 7, hole + 511}) set_mark(*region, page, 1000 + page);
  const CommitReport of_hole = must(region->commit(false));
  expect_equal(of_hole.scanned_pages, 3, "pages scanned after 3 stores into a hole");
  expect_equal(of_hole.written_pages, 3, "pages written after 3 stores into a hole");
  for (const uint64_t page : {0UL, 99UL, 300UL}) set_mark(*region, page, 1000 + page);
  const CommitReport of_cached = must(region->commit(false));
  expect_equal(of_cached.scanned_pages, 3, "pages scanned after 3 stores into a cached chunk");
  expect_equal(of_cached.written_pages, 3, "pages written after 3 stores into a cached chunk");
}

TEST_F(KernelTrapTest, ACommitScansOnlyPagesThatWereStoredTo) {
  expect_passes(
      [&](const NextStep&) { check_only_stores_are_scanned(image_path(), Care::kTaken); });
}

TEST_F(KernelTrapTest, PagesThatDoNotExistCountAsWritten) {
  expect_trap(
      "PAGEMAP_SCAN reports pages as written that do not exist",
      [&](const NextStep&) { check_only_stores_are_scanned(image_path(), Care::kRemoved); },
      "failed: pages scanned after 3 stores into a hole: [0-9]{3,} instead of 3");
}

// --- a protection mark on an empty DAX entry makes the next access fault for ever --------------

constexpr int kAccessSeconds = 6;

void check_demoted_pages_can_be_read(const std::string& path, Care care,
                                     const NextStep& next_step) {
  constexpr uint64_t kPages = 64;
  const auto image = create_filled_image(path, 2 * kChunkSize, kPagesPerChunk);
  auto tracker = care == Care::kTaken ? nullptr : tracker_that_leaves_stale_marks();
  const auto region = map(*image, {.dram_size = kPageSize}, std::move(tracker));
  for (uint64_t page = 0; page < kPages; ++page) set_mark(*region, page, 1000 + page);
  next_step("a commit with demotion", kStepSeconds);
  const CommitReport report = must(region->commit(true));
  expect_equal(report.demoted_pages, kPages - 1, "pages demoted");
  next_step("a load from a demoted page", kAccessSeconds);
  expect_equal(mark(*region, 0), 1000, "the first demoted page");
  next_step("a store to a demoted page", kAccessSeconds);
  set_mark(*region, 1, 2001);
  next_step("loads and a second commit", kStepSeconds);
  for (uint64_t page = 2; page < kPages; ++page) {
    expect_equal(mark(*region, page), 1000 + page, "page " + std::to_string(page));
  }
  expect_equal(must(region->commit(true)).written_pages, 1, "pages written after one more store");
  expect_equal(mark(*region, 1), 2001, "the page stored to twice");
}

TEST_F(KernelTrapTest, ADemotedPageCanBeAccessed) {
  expect_passes([&](const NextStep& next_step) {
    check_demoted_pages_can_be_read(image_path(), Care::kTaken, next_step);
  });
}

TEST_F(KernelTrapTest, AStaleMarkOnDaxMakesTheNextAccessSpin) {
  if (!medium_is_dax()) GTEST_SKIP() << "medium is not DAX: no other leaves a mark that spins";
  expect_trap(
      "a write protection mark on an empty DAX entry makes the next access fault for ever",
      [&](const NextStep& next_step) {
        check_demoted_pages_can_be_read(image_path(), Care::kRemoved, next_step);
      },
      "did not return: a load from a demoted page");
}

// --- what the other tests rely on ---------------------------------------------------------------

TEST_F(KernelTrapTest, AnImageOnDaxIsStoredToWithoutThePageCache) {
  create_image(image_path(), 2 * kChunkSize);
  const bool whole_pages = open_image(image_path())->info().granularity == pcow::Granularity::kPage;
  EXPECT_EQ(whole_pages, !medium_is_dax());
}

// --- clean DAX pages look like private copies ---------------------------------------------------

// Counts what it is told to write and stores nothing: storing to the window of a page that was
// armed is the trap above once more.
class CountingImage final : public tiering::testing::ImageDecorator {
 public:
  using ImageDecorator::ImageDecorator;

  pcow::Result<pcow::WriteReport> write_pages(std::span<const pcow::PageWrite> pages) override {
    pages_written += pages.size();
    return pcow::WriteReport{.written_pages = pages.size(), .zero_pages = 0};
  }
};

void check_reads_write_nothing(const std::string& path, Care care) {
  constexpr uint64_t kOwned = 300;
  const auto image = create_filled_image(path, 2 * kChunkSize, kOwned);
  CountingImage counting(*image);
  auto tracker = care == Care::kTaken ? nullptr : tracker_that_believes_dax_pages_are_copies();
  const auto region = map(counting, {}, std::move(tracker));
  uint64_t sum = 0;
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) sum += mark(*region, page);
  expect_equal(sum, kOwned * (kOwned + 1) / 2, "sum of the marks");
  const CommitReport report = must(region->commit(false));
  expect_equal(report.written_pages, counting.pages_written, "pages the report counts");
  expect_equal(report.written_pages, 0, "pages written after reads only");
}

TEST_F(KernelTrapTest, PagesThatWereOnlyReadAreNotWritten) {
  expect_passes([&](const NextStep&) { check_reads_write_nothing(image_path(), Care::kTaken); });
}

TEST_F(KernelTrapTest, CleanDaxPagesLookLikeCopiesToAScan) {
  if (!medium_is_dax()) GTEST_SKIP() << "medium is not DAX: its clean pages have PAGE_IS_FILE";
  expect_trap(
      "PAGE_IS_FILE is not set for DAX pages",
      [&](const NextStep&) { check_reads_write_nothing(image_path(), Care::kRemoved); },
      "failed: pages written after reads only: [0-9]{3,} instead of 0");
}

}  // namespace
}  // namespace lab
