// SPDX-License-Identifier: BSD-3-Clause
//
// Random operations on an image against an oracle that is a map of page contents, one for the image
// and one for each of its snapshots. Windows that are mapped go on showing what they showed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "tests/model/image_state.h"
#include "tests/model/mapped_window.h"
#include "tests/model/page_values.h"
#include "tests/support/image_fixture.h"
#include "tests/support/test_seed.h"

namespace pcow {
namespace {

class ImageModel {
 public:
  // `files`: that it is striped over.
  ImageModel(const std::string& path, unsigned long seed, uint64_t files = 1,
             uint64_t reserve_ahead = 0)
      : path_(path), random_(seed), reserve_ahead_(reserve_ahead) {
    CreateOptions options;
    options.virtual_size = state_.size;
    options.log_size = 4 * kMiB;
    stripe(options, path, files);
    EXPECT_TRUE(Image::create(path_, options).has_value());
    image_ = open();
  }

  // The same, of an image whose base is what this one is now.
  std::unique_ptr<ImageModel> based_on_this(const std::string& path) {
    mapped_.clear();
    EXPECT_TRUE(image_->commit() && image_->close());
    image_.reset();
    CreateOptions options;
    options.log_size = 4 * kMiB;
    options.base = Base{path_, BaseFormat::kPcow};
    stripe(options, path, uint64_t{1} << pick(3));
    EXPECT_TRUE(Image::create(path, options).has_value());
    return std::unique_ptr<ImageModel>(new ImageModel(path, random_(), state_));
  }

  void step() {
    switch (pick(37)) {
      case 25:
      case 26:
      case 27:
      case 28:
        return log(100);
      case 32:
        for (int call = 0; call < 6; ++call) log(700);
        return;
      case 30:
        return checkpoint();
      case 31:
        return check_refusals();
      case 0:
        return reopen(true);
      case 1:
        return reopen(false);
      case 2:
        return resize();
      case 3:
      case 4:
        return commit();
      case 5:
        ASSERT_OK(image_->reclaim_unowned());
        return;
      case 6:
      case 7:
      case 8:
        return compare_some(*image_);
      case 20:
        return create_snapshot();
      case 21:
        return delete_snapshot();
      case 22:
        return apply_snapshot();
      case 23:
        return fold();
      case 24:
        return begin_deletion();
      case 29:
        return continue_deletion();
      case 33:
        return map_window();
      case 34:
      case 35:
      case 36:
        return discard();
      default:
        return write();
    }
  }

  void finish() {
    std::printf("%lu epochs were cut for want of log, %lu steps of deletions waited for a window\n",
                static_cast<unsigned long>(epochs_cut_), static_cast<unsigned long>(waits_));
    mapped_.clear();
    compare_all(*image_, state_);
    commit();
    while (image_->info().deleting) ASSERT_OK(image_->continue_deletion(9999, {}));
    // What killed writers and dropped epochs had reserved.
    ASSERT_OK(image_->reclaim_unowned());
    ASSERT_OK(image_->close());
    image_.reset();
    test::expect_clean_check(path_);
    for (const auto& [name, state] : snapshots_) {
      SCOPED_TRACE("snapshot " + name);
      compare_all(*open_snapshot(name), state);
    }
    // Without snapshots nothing is left of them.
    image_ = test::open_image(path_);
    while (!snapshots_.empty()) {
      ASSERT_OK(image_->delete_snapshot(snapshots_.begin()->first));
      snapshots_.erase(snapshots_.begin());
    }
    compare_all(*image_, state_);
    ASSERT_OK(image_->close());
    test::expect_clean_check(path_);
    EXPECT_EQ(test::read_superblock(path_, 0).incompatible & format::kIncompatibleLayers, 0u);
  }

 private:
  using State = ImageState;

  ImageModel(const std::string& path, unsigned long seed, State state)
      : path_(path), random_(seed), state_(std::move(state)), image_(open()) {}

  std::unique_ptr<Image> open() const {
    OpenOptions options;
    options.access = Access::kReadWrite;
    options.base = BaseAccess::kFollow;
    options.reserve_ahead = reserve_ahead_;
    auto image = Image::open(path_, options);
    EXPECT_TRUE(image.has_value()) << image.error().message;
    return image ? *std::move(image) : nullptr;
  }

  std::unique_ptr<Image> open_snapshot(const std::string& name) {
    OpenOptions options;
    options.snapshot = name;
    options.base = BaseAccess::kFollow;
    auto image = Image::open(path_, options);
    EXPECT_TRUE(image.has_value()) << image.error().message;
    return image ? *std::move(image) : nullptr;
  }

  std::string pick_snapshot() {
    return std::next(snapshots_.begin(), static_cast<std::ptrdiff_t>(pick(snapshots_.size())))
        ->first;
  }

  void create_snapshot() {
    constexpr size_t kSnapshotsMax = 6;
    if (snapshots_.size() == kSnapshotsMax) return delete_snapshot();
    const std::string name = "s" + std::to_string(next_snapshot_++);
    ASSERT_OK(image_->create_snapshot(name));
    committed_.reset();
    snapshots_[name] = state_;
  }

  // Chunks together, and what the image then says of their windows.
  void fold() {
    if (state_.pages.empty()) return;
    const auto near =
        std::next(state_.pages.begin(), static_cast<std::ptrdiff_t>(pick(state_.pages.size())));
    const ChunkIndex first = chunk_of(PageIndex(near->first));
    const uint64_t left = state_.size / kChunkSize - first.value;
    commit();
    ASSERT_OK(image_->fold(first, std::min<uint64_t>(1 + pick(40), left)));
    ASSERT_OK(image_->checkpoint(UINT64_MAX));
    const auto layout = image_->layout(gib_of(first));
    ASSERT_OK(layout);
    const PageMap owned = image_->page_map(first).value();
    const GibLayout::Chunk& chunk = layout->chunks.at(chunk_in_segment(first));
    ASSERT_EQ(chunk.kind, owned.any() ? GibLayout::Kind::kWindow : GibLayout::Kind::kHole);
    const std::string in_file = owned.none()
                                    ? std::string(kChunkSize, '\0')
                                    : test::file_bytes(image_->info().files.at(chunk.window.file),
                                                       chunk.window.offset, kChunkSize);
    std::vector<std::byte> read(kChunkSize);
    ASSERT_OK(image_->read(first.value * kChunkSize, read));
    ASSERT_TRUE(std::memcmp(in_file.data(), read.data(), kChunkSize) == 0);
  }

  void begin_deletion() {
    if (snapshots_.empty()) return;
    for (int i = 0; i < 4; ++i) map_window();
    if (pick(2) == 0) write();
    commit();
    const std::string name = pick_snapshot();
    const auto begun = image_->begin_deletion(name);
    if (!begun && begun.error().code == Code::kBusy) return continue_deletion();
    ASSERT_OK(begun);
    snapshots_.erase(name);
    for (uint64_t i = pick(16); i > 0 && !::testing::Test::HasFatalFailure(); --i) {
      continue_deletion();
      if (i % 8 == 0) pick(2) == 0 ? write() : log(100);
    }
  }

  void continue_deletion() {
    commit();
    const auto in_use = [&](const std::vector<FilePlace>& segment) {
      return std::ranges::any_of(mapped_, [&](const auto& m) { return m->lies_in(segment); });
    };
    const auto report = image_->continue_deletion(pick(4) == 0 ? 9999 : 1 + pick(64), in_use);
    ASSERT_OK(report);
    for (const auto& window : mapped_) window->check();
    waits_ += report->waits ? 1U : 0U;
    if (report->waits && pick(16) == 0) mapped_.clear();
  }

  void map_window() {
    constexpr size_t kMappedMax = 8;
    if (mapped_.size() == kMappedMax) mapped_.erase(mapped_.begin());
    const ChunkIndex chunk = chunk_of(PageIndex(pick_page()));
    const auto layout = image_->layout(gib_of(chunk));
    ASSERT_OK(layout);
    const GibLayout::Chunk& there = layout->chunks.at(chunk_in_segment(chunk));
    if (there.kind != GibLayout::Kind::kWindow) return;
    mapped_.push_back(std::make_unique<MappedWindow>(*image_, chunk, there.window));
    mapped_.back()->check();
  }

  void delete_snapshot() {
    if (snapshots_.empty()) return;
    mapped_.clear();
    commit();
    const std::string name = pick_snapshot();
    ASSERT_OK(image_->delete_snapshot(name));
    snapshots_.erase(name);
  }

  void apply_snapshot() {
    if (snapshots_.empty()) return;
    mapped_.clear();
    const std::string name = pick_snapshot();
    ASSERT_OK(image_->apply_snapshot(name));
    committed_.reset();
    state_ = snapshots_.at(name);
  }

  uint64_t pick(uint64_t bound) { return random_() % bound; }
  // In units of any size.
  void stripe(CreateOptions& options, const std::string& path, uint64_t files) {
    for (uint64_t i = 1; i < files; ++i) {
      options.stripe.push_back(path + "." + std::to_string(i));
    }
    if (files == 1) return;
    do {
      options.stripe_unit = kWindowSize << pick(10);
    } while (options.stripe_unit * files > kSegmentSize);
  }
  // Clustered, so that pages are met again.
  uint64_t pick_page() {
    const uint64_t pages = state_.size / kPageSize;
    const uint64_t anchor = pick(16) * (pages / 16);
    return std::min(anchor + pick(pick(4) == 0 ? pages / 16 : 64), pages - 1);
  }

  void commit() {
    ASSERT_OK(image_->commit());
    committed_.reset();
  }

  void checkpoint() {
    const auto report = image_->checkpoint(pick(2) == 0 ? UINT64_MAX : pick(40));
    ASSERT_OK(report);
    if (committed_) return;
    ASSERT_EQ(image_->log_state().under_way, 0u);
  }

  // What an epoch under way excludes changes nothing.
  void check_refusals() {
    if (!committed_) return;
    const test::Page data = test::pattern_page(1);
    const PageWrite write{PageIndex(0), data.data()};
    EXPECT_EQ(image_->write_pages(std::span(&write, 1)).error().code, Code::kInvalid);
    EXPECT_EQ(image_->discard(PageIndex(0), 1).error().code, Code::kInvalid);
    EXPECT_EQ(image_->resize(state_.size + kChunkSize, false).error().code, Code::kInvalid);
    if (snapshots_.empty()) return;
    EXPECT_EQ(image_->delete_snapshot(snapshots_.begin()->first).error().code, Code::kInvalid);
  }

  // The next value of a page in an epoch: new, zero, as it is, or with other lines.
  uint64_t next_value(uint64_t page) {
    const auto it = state_.pages.find(page);
    const uint64_t now = it == state_.pages.end() ? 0 : it->second;
    const uint64_t fresh = 1 + pick(1000000);
    switch (pick(6)) {
      case 0:
        return 0;
      case 1:
        return now;
      case 2:
      case 3:
        return (now & kMixed) != 0 ? now & ((1 << kValueBits) - 1)  // back to what it was
                                   : mixed(now, fresh, pick(1 << kValueBits));
      default:
        return fresh;
    }
  }

  // Up to so many pages, in a row or not, with the values that next(page) gives them.
  std::map<uint64_t, uint64_t> pick_batch(uint64_t pages_max,
                                          const std::function<uint64_t(uint64_t)>& next) {
    std::map<uint64_t, uint64_t> batch;
    const uint64_t count = 1 + pick(pages_max);
    const bool run = pick(2) == 0;
    const uint64_t start = pick_page();
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t page = run ? std::min(start + i, state_.size / kPageSize - 1) : pick_page();
      batch[page] = next(page);
      for (const auto& window : mapped_) window->note_write(page);
    }
    return batch;
  }

  static test::PageBatch pages_of(const std::map<uint64_t, uint64_t>& batch) {
    test::PageBatch pages;
    for (const auto& [page, value] : batch) pages.add(page, content(value));
    return pages;
  }

  void log(uint64_t pages_max) {
    const auto batch = pick_batch(pages_max, [&](uint64_t page) { return next_value(page); });
    const test::PageBatch pages = pages_of(batch);
    const uint64_t room = image_->log_state().room_pages;
    auto report = image_->log_pages(pages.writes());
    if (!report) {
      ASSERT_EQ(code_name(report.error().code), "log-full") << report.error().message;
      ASSERT_GT(batch.size() + 300, room);
      ASSERT_TRUE(committed_.has_value()) << "an epoch of one call does not fit";
      commit();
      ++epochs_cut_;
      report = image_->log_pages(pages.writes());
    }
    ASSERT_OK(report);
    if (report->changed_pages > 0 && !committed_) committed_ = state_;
    for (const auto& [page, value] : batch) {
      if (value != 0 || state_.pages.contains(page)) state_.pages[page] = value;
    }
  }

  void write() {
    commit();
    const auto batch =
        pick_batch(200, [&](uint64_t) { return pick(5) == 0 ? 0 : 1 + pick(1000000); });
    const test::PageBatch pages = pages_of(batch);
    const auto report = image_->write_pages(pages.writes());
    ASSERT_OK(report);
    ASSERT_EQ(report->written_pages + report->zero_pages, pages.writes().size());
    for (const auto& [page, value] : batch) {
      if (value != 0 || state_.pages.contains(page)) state_.pages[page] = value;
    }
  }

  void discard() {
    commit();
    const uint64_t pages = state_.size / kPageSize;
    uint64_t first = pick_page();
    uint64_t count = 1 + pick(pick(2) == 0 ? 100 : 3 * kPagesPerChunk);
    if (pick(16) == 0) count += 2 * kPagesPerSegment;
    if (pick(4) == 0) first = first / kPagesPerChunk * kPagesPerChunk;
    count = std::min(count, pages - first);
    for (const auto& window : mapped_) window->note_writes(first, count);
    ASSERT_OK(image_->discard(PageIndex(first), count));
    state_.pages.erase(state_.pages.lower_bound(first), state_.pages.lower_bound(first + count));
    for (const uint64_t page : {first, first + count / 2, first + count - 1}) {
      ASSERT_EQ(test::read_page(*image_, page), content(0)) << page;
    }
  }

  void compare_some(const Image& image) {
    for (int i = 0; i < 20; ++i) {
      const uint64_t page = pick_page();
      const auto it = state_.pages.find(page);
      ASSERT_EQ(test::read_page(image, page), content(it == state_.pages.end() ? 0 : it->second));
    }
  }

  void reopen(bool clean) {
    mapped_.clear();
    if (clean) {
      if (pick(2) == 0) commit();  // otherwise an epoch that is under way is dropped
      ASSERT_OK(image_->close());
    }
    image_.reset();
    if (committed_) state_ = *std::exchange(committed_, std::nullopt);
    test::expect_clean_check(path_, true);
    if (!clean) {
      OpenOptions options;
      options.replay_in_memory = true;
      options.base = BaseAccess::kFollow;
      const auto reader = Image::open(path_, options);
      ASSERT_OK(reader);
      compare_some(**reader);
    }
    if (clean && !snapshots_.empty()) {
      const std::string name = pick_snapshot();
      SCOPED_TRACE("snapshot " + name);
      compare_all(*open_snapshot(name), snapshots_.at(name));
    }
    image_ = open();
    ASSERT_NE(image_, nullptr);
    ASSERT_EQ(image_->virtual_size(), state_.size);
    ASSERT_EQ(image_->snapshots().value().size(), snapshots_.size());
    compare_some(*image_);
  }

  void resize() {
    mapped_.clear();
    commit();
    const uint64_t size = (1 + pick(20 * kGiB / kChunkSize)) * kChunkSize;
    ASSERT_OK(image_->resize(size, true));
    state_.size = size;
    state_.pages.erase(state_.pages.lower_bound(size / kPageSize), state_.pages.end());
  }

  std::string path_;
  std::mt19937_64 random_;
  uint64_t reserve_ahead_ = 0;
  State state_;
  std::optional<State> committed_;  // what a crash leaves, while an epoch is under way
  uint64_t epochs_cut_ = 0;
  std::map<std::string, State> snapshots_;  // by name
  uint64_t next_snapshot_ = 0;
  uint64_t waits_ = 0;
  std::unique_ptr<Image> image_;
  std::vector<std::unique_ptr<MappedWindow>> mapped_;
};

void run(ImageModel& model, int steps) {
  for (int step = 0; step < test::history_length(steps) && !::testing::Test::HasFatalFailure();
       ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    model.step();
  }
}

TEST(ImageModel, RandomOperationsMatchTheOracle) {
  const test::TempDir dir;
  ImageModel model(dir.file("model.pcow"), test::test_seed());
  run(model, 1500);
  if (!::testing::Test::HasFatalFailure()) model.finish();
}

TEST(ImageModel, RandomOperationsOnAStripeSetMatchTheOracle) {
  const test::TempDir dir;
  for (const uint64_t files : {2u, 4u, 16u}) {
    SCOPED_TRACE(std::to_string(files) + " files");
    ImageModel model(dir.file(std::to_string(files) + ".pcow"), test::test_seed() + files, files);
    run(model, 500);
    if (!::testing::Test::HasFatalFailure()) model.finish();
  }
}

// With the thread that makes space, where there is a medium for it (on others it does nothing).
TEST(ImageModel, RandomOperationsWithSpaceAheadMatchTheOracle) {
  const char* told = std::getenv("PCOW_TEST_DIR");
  const test::TempDir dir(told != nullptr ? told : "/var/tmp");
  for (const uint64_t files : {1u, 4u}) {
    SCOPED_TRACE(std::to_string(files) + " files");
    ImageModel model(dir.file(std::to_string(files) + ".pcow"), test::test_seed() + files, files,
                     8 * kMiB);
    run(model, 400);
    if (!::testing::Test::HasFatalFailure()) model.finish();
  }
}

// A chain of three, each with a history, some of them stripe sets.
TEST(ImageModel, RandomOperationsOnABaseMatchTheOracle) {
  const test::TempDir dir;
  auto model = std::make_unique<ImageModel>(dir.file("0.pcow"), test::test_seed());
  for (int image = 1; image <= 3; ++image) {
    SCOPED_TRACE("image " + std::to_string(image));
    run(*model, 250);
    if (::testing::Test::HasFatalFailure()) return;
    if (image < 3) model = model->based_on_this(dir.file(std::to_string(image) + ".pcow"));
  }
  model->finish();
}

}  // namespace
}  // namespace pcow
