// SPDX-License-Identifier: BSD-3-Clause
//
// Random histories of a region with epochs against an oracle in plain memory: what the guest last
// stored, what it was at the last barrier, and what the last committed epoch is. After a crash, at
// any step, every page of the image is compared with that epoch.
#include <gtest/gtest.h>
#include <pcow/image.h>
#include <tiering/region.h>

#include <cstdio>
#include <cstring>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/support/image_fixture.h"
#include "tests/support/test_seed.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering {
namespace {

using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kSize = pcow::kGiB + 32 * kMiB;
constexpr uint64_t kPages = kSize / kPageSize;
constexpr uint64_t kAll = kPages;
constexpr size_t kSnapshotsMax = 2;

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

using State = std::map<uint64_t, uint64_t>;  // page → value; the others are zero

class Model {
 public:
  explicit Model(unsigned long seed) : random_(seed) {
    test::create_image(path_, kSize, 16 * kMiB);
    open();
  }

  void step() {
    const uint64_t choice = random_() % 100;
    if (choice < 30) return scattered_stores();
    if (choice < 34) return store_run();
    if (choice < 37) return discard();
    if (choice < 42) return read_some();
    if (choice < 60) return precopy();
    if (choice < 70) return prepare();
    if (choice < 82) return barrier_or_commit();
    if (choice < 88) return checkpoint();
    if (choice < 90) return deletion_steps();
    if (choice < 93) return pin_or_unpin();
    if (choice < 94) return commit_all();
    if (choice < 96) return snapshot();
    if (choice < 97) return delete_snapshot();
    if (choice < 98) return close_and_reopen();
    return crash();
  }
  void finish() {
    commit_all();
    close_and_reopen();
    compare_guest();
    std::printf("epochs=%llu restarts=%llu demoted=%llu kept=%llu crashes=%llu snapshots=%llu\n",
                as_printed(epochs_), as_printed(restarts_), as_printed(demoted_), as_printed(kept_),
                as_printed(crashes_), as_printed(snapshots_taken_));
    std::printf("deletions: waited=%llu chunks mapped from elsewhere=%llu\n", as_printed(waits_),
                as_printed(moved_));
    std::printf("promoted=%llu unmapped=%llu huge=%llu\n", as_printed(promoted_),
                as_printed(unmapped_), as_printed(huge_));
    EXPECT_GT(epochs_, 0U);
    EXPECT_GT(demoted_, 0U);
    EXPECT_GT(promoted_, 0U);
    EXPECT_GT(unmapped_, 0U);
  }

 private:
  static unsigned long long as_printed(uint64_t value) { return value; }

  void open() {
    image_ = test::open_image(path_);
    decorated_.emplace(*image_);
    decorated_->failure = pcow::Code::kLogFull;
    decorated_->log_size_max = 32 * kMiB;
    const uint32_t budget = random_() % 2 == 0 ? kMinMappingBudget : kDefaultMappingBudget;
    region_ = must(Region::map(
        *decorated_,
        {.persistence = Persistence::kEpoch, .dram_size = kMiB, .mapping_budget = budget}));
    sealed_.reset();
  }
  std::byte* at(uint64_t page) { return region_->base() + page * kPageSize + page % 64 * 64; }
  void store(uint64_t page, uint64_t value) {
    std::memcpy(at(page), &value, sizeof value);
    guest_[page] = value;
    touched_[page / kPagesPerChunk] = true;
  }
  uint64_t load(uint64_t page) {
    uint64_t value = 0;
    std::memcpy(&value, at(page), sizeof value);
    return value;
  }
  static uint64_t value_in(const State& state, uint64_t page) {
    const auto found = state.find(page);
    return found == state.end() ? 0 : found->second;
  }
  // Few enough pages that they are stored to again.
  uint64_t some_page() {
    const uint64_t place = random_() % 2000;
    return place % 4 == 0 ? place * 131 % kPages : place;
  }

  void scattered_stores() {
    for (uint64_t i = random_() % 200; i > 0; --i) {
      store(some_page(), random_() % 16 == 0 ? 0 : random_());
    }
  }
  void store_run() {
    const uint64_t first = some_page();
    const uint64_t end = std::min(kPages, first + 1 + random_() % 600);
    const bool zero = random_() % 4 == 0;
    for (uint64_t page = first; page < end; ++page) store(page, zero ? 0 : random_());
  }
  void discard() {
    uint64_t first = some_page();
    if (random_() % 2 == 0) first = first / kPagesPerChunk * kPagesPerChunk;
    const uint64_t length = 1 + random_() % (random_() % 2 == 0 ? 30 : 3 * kPagesPerChunk);
    const uint64_t end = std::min(kPages, first + length);
    must(region_->discard(first * kPageSize, (end - first) * kPageSize));
    guest_.erase(guest_.lower_bound(first), guest_.lower_bound(end));
    for (const uint64_t page : {first, (first + end) / 2, end - 1}) {
      ASSERT_EQ(load(page), value_in(guest_, page)) << "guest page " << page;
    }
  }
  void read_some() {
    for (int i = 0; i < 300; ++i) {
      const uint64_t page = some_page();
      ASSERT_EQ(load(page), value_in(guest_, page)) << "guest page " << page;
    }
  }
  void precopy() {
    if (!sealed_) must(region_->precopy());
  }
  void prepare() {
    if (random_() % 2 == 0) return promote_or_prepare_moves();
    if (!sealed_) must(region_->prepare_demotion(random_() % 2 == 0 ? kAll : random_() % 500));
  }
  // As a policy does it: any pages, also of chunks that are holes, or shared with a snapshot.
  void promote_or_prepare_moves() {
    if (random_() % 3 == 0) {
      const uint64_t first = some_page();
      const uint64_t count = std::min(kPages - first, 1 + random_() % 700);
      promoted_ += must(region_->promote({pcow::PageIndex(first), count}));
      return;
    }
    if (sealed_) return;
    std::vector<PageRun> runs;
    std::vector<pcow::ChunkIndex> chunks;
    std::vector<pcow::ChunkIndex> huge;
    for (uint64_t at = random_() % 300; at < 2000; at += 1 + random_() % 300) {
      const uint64_t count = 1 + random_() % 400;
      runs.push_back({pcow::PageIndex(at), count});
      at += count;
    }
    for (uint64_t chunk = 0; chunk < 4; ++chunk) {
      if (random_() % 2 == 0) chunks.emplace_back(chunk);
      if (random_() % 2 == 0) huge.emplace_back(chunk);
    }
    read_some();
    must(region_->prepare_moves({.demotions = runs,
                                 .watched = chunks,
                                 .watched_pages_max = random_() % 2000,
                                 .huge = huge}));
    // What much is stored to until the barrier does not become huge.
    if (random_() % 2 == 0) barrier_or_commit();
  }
  void barrier_or_commit() {
    if (sealed_) {
      must(region_->commit_epoch());
      committed_ = *std::exchange(sealed_, std::nullopt);
      ++epochs_;
      return;
    }
    // Some epochs begin again, because the log is said to be full.
    decorated_->fail_log_in = random_() % 6;
    const BarrierReport report = must(region_->barrier());
    decorated_->fail_log_in = 0;
    EXPECT_FALSE(report.demotion_error);
    restarts_ += report.restarts;
    moved_ += report.moved_chunks;
    demoted_ += report.demoted_pages;
    unmapped_ += report.unmapped_pages;
    huge_ += report.huge_chunks;
    kept_ += report.kept_pages;
    sealed_ = guest_;
    check_residency();
  }
  // What the region remembers of its copies is what the page table says.
  void check_residency() {
    const auto remembered = must(region_->collected_residency());
    const auto there = must(region_->residency({pcow::PageIndex(0), kSize / kPageSize}));
    ASSERT_EQ(remembered.size(), there.size());
    for (size_t i = 0; i < there.size(); ++i) {
      ASSERT_EQ(remembered[i].chunk, there[i].chunk);
      EXPECT_EQ(remembered[i].resident, there[i].resident) << there[i].chunk.value;
      EXPECT_EQ(remembered[i].dirty, there[i].dirty) << there[i].chunk.value;
      EXPECT_EQ(remembered[i].pinned, there[i].pinned) << there[i].chunk.value;
      EXPECT_EQ(remembered[i].huge, there[i].huge) << there[i].chunk.value;
      EXPECT_EQ(remembered[i].hole, there[i].hole) << there[i].chunk.value;
    }
  }
  void checkpoint() { must(region_->checkpoint(random_() % 2 == 0 ? kAll : random_() % 300)); }
  void pin_or_unpin() {
    if (pin_) {
      must(region_->unpin(pin_->first, pin_->second));
      pin_.reset();
    } else {
      pin_ = {some_page() * kPageSize, 1 + random_() % (3 * kPageSize)};
      pin_->second = std::min(pin_->second, kSize - pin_->first);
      must(region_->pin(pin_->first, pin_->second));
    }
  }
  void commit_all() {
    demoted_ += must(region_->commit(random_() % 2 == 0)).demoted_pages;
    committed_ = guest_;
    sealed_.reset();
    ++epochs_;
  }
  void snapshot() {
    if (snapshots_.size() == kSnapshotsMax) return;
    // Of the barrier, whatever was stored since.
    if (!sealed_) barrier_or_commit();
    scattered_stores();
    const std::string name = "s" + std::to_string(snapshots_taken_++);
    EXPECT_FALSE(region_->create_snapshot(name));
    barrier_or_commit();
    must(region_->create_snapshot(name));
    snapshots_[name] = committed_;
  }
  void delete_snapshot() {
    if (snapshots_.empty()) return;
    if (!sealed_) barrier_or_commit();
    barrier_or_commit();
    const auto gone =
        std::next(snapshots_.begin(), static_cast<std::ptrdiff_t>(random_() % snapshots_.size()));
    const auto begun = region_->begin_deletion(gone->first);
    if (begun) {
      snapshots_.erase(gone);
    } else {
      EXPECT_EQ(begun.error().code, pcow::Code::kBusy);
    }
    deletion_steps();
  }
  void deletion_steps() {
    for (int step = 0; step < 5; ++step) {
      const auto report = region_->continue_deletion(1 + random_() % 300);
      if (!report) {
        EXPECT_EQ(report.error().code, pcow::Code::kInvalid);  // an epoch is under way
        return;
      }
      waits_ += report->waits ? 1U : 0U;
    }
    read_some();
  }
  void close_and_reopen() {
    commit_all();
    pin_.reset();
    region_.reset();
    must(image_->reclaim_unowned());
    const bool deleting = image_->info().deleting;
    must(image_->close());
    image_.reset();
    test::expect_clean_check(path_, deleting);
    for (const auto& [name, state] : snapshots_) {
      const auto image = must(pcow::Image::open(path_, {.snapshot = name}));
      compare(*image, state);
    }
    open();
  }
  void crash() {
    ++crashes_;
    pin_.reset();
    region_.reset();
    image_.reset();
    guest_ = committed_;
    open();
    compare(*image_, committed_);
    compare_guest();
  }
  // Every chunk ever stored to, and some of the others.
  void compare(const pcow::Image& image, const State& state) {
    std::vector<std::byte> data(pcow::kChunkSize);
    for (uint64_t chunk = 0; chunk < kPages / kPagesPerChunk; ++chunk) {
      if (!touched_[chunk] && random_() % 16 != 0) continue;
      must(image.read(chunk * pcow::kChunkSize, data));
      for (uint64_t i = 0; i < kPagesPerChunk; ++i) {
        const uint64_t page = chunk * kPagesPerChunk + i;
        uint64_t value = 0;
        std::memcpy(&value, data.data() + i * kPageSize + page % 64 * 64, sizeof value);
        ASSERT_EQ(value, value_in(state, page)) << "image page " << page;
      }
    }
  }
  void compare_guest() {
    for (const auto& [page, value] : guest_) ASSERT_EQ(load(page), value) << "page " << page;
  }

  std::mt19937_64 random_;
  test::TempDir directory_;
  const std::string path_ = directory_.file("vm.pcow");
  std::unique_ptr<pcow::Image> image_;
  std::optional<testing::ImageDecorator> decorated_;
  std::unique_ptr<Region> region_;
  std::vector<bool> touched_ = std::vector<bool>(kPages / kPagesPerChunk);
  State guest_;
  State committed_;
  std::optional<State> sealed_;  // as of a barrier that is not committed
  std::map<std::string, State> snapshots_;
  std::optional<std::pair<uint64_t, uint64_t>> pin_;
  uint64_t epochs_ = 0;
  uint64_t restarts_ = 0;
  uint64_t demoted_ = 0;
  uint64_t kept_ = 0;
  uint64_t promoted_ = 0;
  uint64_t huge_ = 0;
  uint64_t unmapped_ = 0;
  uint64_t crashes_ = 0;
  uint64_t snapshots_taken_ = 0;
  uint64_t waits_ = 0;
  uint64_t moved_ = 0;
};

TEST(EpochModelTest, RandomHistories) {
  constexpr int kSteps = 800;
  Model model(test::test_seed());
  for (int step = 1; step <= kSteps && !::testing::Test::HasFatalFailure(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    model.step();
  }
  if (!::testing::Test::HasFatalFailure()) model.finish();
}

}  // namespace
}  // namespace tiering
