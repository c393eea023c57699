// SPDX-License-Identifier: BSD-3-Clause
//
// Random histories of a region against an oracle in plain memory: what the guest last stored, and
// what the last commit made durable, what each snapshot keeps, and the base. Every few steps
// everything is compared: the guest's view, the image's view, the kernel's mappings.
#include <gtest/gtest.h>
#include <pcow/image.h>
#include <tiering/region.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/image_fixture.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_seed.h"
#include "tiering/kernel/vma_list.h"

namespace tiering {
namespace {

using pcow::kChunksPerSegment;
using pcow::kMiB;
using pcow::kPageSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kSize = 1 * pcow::kGiB + 64 * kMiB;
constexpr uint64_t kPages = kSize / kPageSize;
constexpr uint64_t kDram = 2 * kMiB;
constexpr size_t kSnapshotsMax = 3;
const pcow::OpenOptions kReadWrite{.access = pcow::Access::kReadWrite,
                                   .base = pcow::BaseAccess::kFollow};

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

class Model {
 public:
  explicit Model(unsigned long seed)
      : random_(seed), guest_(kPages), durable_(kPages), touched_(kPages) {
    pcow::CreateOptions options;
    options.virtual_size = kSize;
    if (const uint64_t kind = random_() % 3; kind > 0) {
      options.base = make_base(kind == 1 ? pcow::BaseFormat::kPcow : pcow::BaseFormat::kRaw);
      base_content_ = guest_;
    }
    // The smallest budget has to have room for one mapping a unit.
    if (random_() % 2 == 0) {
      files_ = uint64_t{2} << random_() % 2;
      options.stripe_unit = pcow::kWindowSize << 2 * (random_() % 4);
      for (uint64_t i = 1; i < files_; ++i) options.stripe.push_back("m" + std::to_string(i));
      smallest_budget_ = 16 + 2 * pcow::kGiB / options.stripe_unit;
    }
    must(pcow::Image::create(path_, options));
    open();
  }

  void step() {
    const uint64_t choice = random_() % 100;
    if (choice < 40) return scattered_stores();
    if (choice < 55) return store_run();
    if (choice < 58) return zero_run();
    if (choice < 62) return discard();
    if (choice < 75) return read_some();
    if (choice < 83) return commit(false);
    if (choice < 93) return commit(true);
    if (choice < 94) return must(region_->apply_attributes());
    if (choice < 95) return take_snapshot();
    if (choice < 96) return delete_in_steps();
    if (choice < 98) return close_and_reopen();
    return drop_and_reopen();
  }

  // Also of pages that are in DRAM, or in windows that are mapped.
  void take_snapshot() {
    if (snapshots_.size() == kSnapshotsMax) return;
    commit(random_() % 2 == 0);
    const std::string name = "s" + std::to_string(snapshots_taken_++);
    must(region_->create_snapshot(name));
    snapshots_[name] = durable_;
  }

  // Begins, or goes on, while windows of what is given up are mapped.
  void delete_in_steps() {
    if (!snapshots_.empty() && random_() % 2 == 0) {
      const auto gone =
          std::next(snapshots_.begin(), static_cast<std::ptrdiff_t>(random_() % snapshots_.size()));
      const auto begun = region_->begin_deletion(gone->first);
      if (begun) {
        snapshots_.erase(gone);
      } else if (begun.error().code != pcow::Code::kBusy) {
        must(begun);
      }
    }
    for (int step = 0; step < 10; ++step) {
      waits_ += must(region_->continue_deletion(1 + random_() % 1000)).waits ? 1U : 0U;
    }
    read_some();
    commit(true);
    const auto report = must(region_->continue_deletion(100000));
    deletions_ += report.done ? 1U : 0U;
    read_some();
  }

  // Every page ever stored to, and a sample of the others: reading all holes would only fill the
  // medium.
  void compare_all() {
    for (uint64_t page = 0; page < kPages; ++page) {
      if (!touched_[page] && random_() % 100 != 0) continue;
      ASSERT_EQ(load(page), guest_[page]) << "guest page " << page;
    }
    const RegionStatus status = must(region_->status());
    const auto start = reinterpret_cast<uintptr_t>(region_->base());
    EXPECT_LE(must(kernel::mappings_in(start, start + kSize)).size(), status.mappings);
    EXPECT_LE(status.mappings, budget_);
  }

  void finish() {
    close_and_reopen();
    compare_all();
    close();
    if (!base_content_.empty()) check_base();
    std::printf("deletions=%llu waited=%llu\n", static_cast<unsigned long long>(deletions_),
                static_cast<unsigned long long>(waits_));
  }

 private:
  // Something for the guest to begin with: runs of pages, and single ones. A raw base ends in the
  // middle of a page.
  pcow::Base make_base(pcow::BaseFormat format) {
    const bool raw = format == pcow::BaseFormat::kRaw;
    const uint64_t end = raw ? kPages - 1 - random_() % 2000 : kPages;
    if (raw) {
      std::ofstream(base_path_).close();
      std::filesystem::resize_file(base_path_, end * kPageSize - 100);
    } else {
      must(pcow::Image::create(base_path_, {.virtual_size = kSize}));
    }
    std::fstream file;
    if (raw) file.open(base_path_, std::ios::in | std::ios::out | std::ios::binary);
    const auto image = raw ? nullptr : must(pcow::Image::open(base_path_, kReadWrite));
    for (int run = 0; run < 200; ++run) {
      const uint64_t length = 1 + (run % 8 == 0 ? random_() % (2 * kPagesPerChunk) : 0);
      const uint64_t first = random_() % (end - length + 1);
      for (uint64_t page = first; page < first + length; ++page) {
        guest_[page] = random_();
        touched_[page] = true;
        std::array<std::byte, kPageSize> data{};
        std::memcpy(data.data() + 2048, &guest_[page], sizeof guest_[page]);
        const pcow::PageWrite write{pcow::PageIndex(page), data.data()};
        if (image) {
          must(image->write_pages(std::span(&write, 1)));
        } else {
          file.seekp(static_cast<std::streamoff>(page * kPageSize + 2048));
          file.write(reinterpret_cast<const char*>(data.data() + 2048), sizeof guest_[page]);
        }
      }
    }
    if (image) must(image->close());
    durable_ = guest_;
    return {base_path_, format};
  }

  // Nothing that was done to the image has reached it: its generation or time tells.
  void check_base() {
    const auto image = must(pcow::Image::open(path_, {.base = pcow::BaseAccess::kFollow}));
    EXPECT_FALSE(image->info().chain.empty());
    const auto base = pcow::Image::open(base_path_, {});
    std::ifstream file(base_path_, std::ios::binary);
    for (uint64_t page = 0; page < kPages; ++page) {
      if (base_content_[page] == 0) continue;
      uint64_t value = 0;
      if (base) {
        must((*base)->read(page * kPageSize + 2048, std::as_writable_bytes(std::span(&value, 1))));
      } else {
        file.seekg(static_cast<std::streamoff>(page * kPageSize + 2048));
        file.read(reinterpret_cast<char*>(&value), sizeof value);
      }
      ASSERT_EQ(value, base_content_[page]) << "page " << page << " of the base";
    }
  }
  void close() {
    region_.reset();
    // Reading holes makes a tmpfs file grow.
    must(image_->reclaim_unowned());
    if (!snapshots_.empty() && random_() % 2 == 0) {
      const auto gone =
          std::next(snapshots_.begin(), static_cast<std::ptrdiff_t>(random_() % snapshots_.size()));
      must(image_->delete_snapshot(gone->first));
      snapshots_.erase(gone);
    }
    const bool deleting = image_->info().deleting;
    must(image_->close());
    image_.reset();
    test::expect_clean_check(path_, deleting);
    for (const auto& [name, content] : snapshots_) {
      pcow::OpenOptions options;
      options.snapshot = name;
      options.base = pcow::BaseAccess::kFollow;
      const auto image = must(pcow::Image::open(path_, options));
      SCOPED_TRACE("snapshot " + name);
      compare_with(*image, content);
    }
  }
  void open() {
    // Small and large budgets, all of them enough for two segments.
    budget_ = std::vector<uint32_t>{16, 40, 300, kDefaultMappingBudget}[random_() % 4];
    budget_ = std::max(budget_, static_cast<uint32_t>(smallest_budget_));
    image_ = must(pcow::Image::open(path_, kReadWrite));
    region_ = must(Region::map(*image_, {.dram_size = kDram, .mapping_budget = budget_}));
  }

  std::byte* at(uint64_t page) { return region_->base() + page * kPageSize + 2048; }
  uint64_t load(uint64_t page) {
    uint64_t value = 0;
    std::memcpy(&value, at(page), sizeof value);
    return value;
  }
  void store(uint64_t page, uint64_t value) {
    std::memcpy(at(page), &value, sizeof value);
    guest_[page] = value;
    touched_[page] = true;
  }

  void scattered_stores() {
    const uint64_t count = 1 + random_() % 300;
    for (uint64_t i = 0; i < count; ++i) store(random_() % kPages, random_());
  }
  void store_run() {
    const uint64_t length = 1 + random_() % (3 * kPagesPerChunk);
    const uint64_t first = random_() % (kPages - length);
    for (uint64_t i = 0; i < length; ++i) store(first + i, random_());
  }
  void zero_run() {
    const uint64_t length = 1 + random_() % kPagesPerChunk;
    const uint64_t first = random_() % (kPages - length);
    for (uint64_t i = 0; i < length; ++i) store(first + i, 0);
  }
  void discard() {
    uint64_t first = random_() % kPages;
    uint64_t length = 1 + random_() % (random_() % 2 == 0 ? 20 : 4 * kPagesPerChunk);
    if (random_() % 2 == 0) first = first / kPagesPerChunk * kPagesPerChunk;
    if (random_() % 20 == 0) length += kPages / 2;
    length = std::min(length, kPages - first);
    must(region_->discard(first * kPageSize, length * kPageSize));
    for (uint64_t page = first; page < first + length; ++page) {
      guest_[page] = 0;
      if (durable_[page] != 0) may_be_zero_.insert(page);
    }
    for (const uint64_t page : {first, first + length / 2, first + length - 1}) {
      ASSERT_EQ(load(page), 0U) << "guest page " << page;
    }
  }
  void read_some() {
    for (int i = 0; i < 500; ++i) {
      const uint64_t page = random_() % kPages;
      ASSERT_EQ(load(page), guest_[page]) << "guest page " << page;
    }
  }
  void commit(bool may_demote) {
    must(region_->commit(may_demote));
    durable_ = guest_;
    may_be_zero_.clear();
    const RegionStatus status = must(region_->status());
    EXPECT_EQ(status.dirty_bytes, 0U);
    if (may_demote) {
      EXPECT_LE(status.dram_resident_bytes, kDram);
    }
    compare_with(*image_, durable_);
  }
  void close_and_reopen() {
    commit(random_() % 2 == 0);
    close();
    open();
  }
  // As a crash of the hypervisor: stores since the last commit are gone, nothing else. (In
  // volatile persistence pages of a commit that did not finish may remain; here all finish. But
  // what was discarded may be zero.)
  void drop_and_reopen() {
    region_.reset();
    image_.reset();
    open();
    for (const uint64_t page : std::exchange(may_be_zero_, {})) {
      const uint64_t found = load(page);
      ASSERT_TRUE(found == 0 || found == durable_[page]) << "guest page " << page;
      durable_[page] = found;
    }
    guest_ = durable_;
  }
  void compare_with(const pcow::Image& image, const std::vector<uint64_t>& content) {
    for (int i = 0; i < 300; ++i) {
      const uint64_t page = random_() % kPages;
      uint64_t value = 0;
      must(image.read(page * kPageSize + 2048, std::as_writable_bytes(std::span(&value, 1))));
      ASSERT_EQ(value, content[page]) << "image page " << page;
    }
  }

  std::mt19937_64 random_;
  test::TempDir directory_;
  std::string path_ = directory_.file("vm.pcow");
  std::string base_path_ = directory_.file("base");
  std::unique_ptr<pcow::Image> image_;
  std::unique_ptr<Region> region_;
  uint32_t budget_ = 0;
  uint64_t files_ = 1;
  uint64_t smallest_budget_ = 0;
  std::vector<uint64_t> guest_;
  std::vector<uint64_t> durable_;
  std::set<uint64_t> may_be_zero_;      // discarded since the last commit
  std::vector<uint64_t> base_content_;  // empty: there is no base
  std::map<std::string, std::vector<uint64_t>> snapshots_;
  uint64_t snapshots_taken_ = 0;
  uint64_t deletions_ = 0;
  uint64_t waits_ = 0;
  std::vector<bool> touched_;
};

TEST(RegionModelTest, RandomHistories) {
  const int steps = test::history_length(400);
  Model model(test::test_seed());
  for (int step = 1; step <= steps && !::testing::Test::HasFatalFailure(); ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    model.step();
    if (step % 100 == 0) model.compare_all();
  }
  if (!::testing::Test::HasFatalFailure()) model.finish();
}

}  // namespace
}  // namespace tiering
