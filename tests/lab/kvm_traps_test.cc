// SPDX-License-Identifier: BSD-3-Clause
//
// Traps in how KVM follows the host's mappings. KVM resolves a fault of the guest against the
// host's page table: what is not writable there is no signal, but an error of KVM_RUN that stops
// the virtual machine; what changes there must change in the nested page table.
#include <sys/mman.h>

#include <cstring>

#include "tests/lab/micro_vm.h"
#include "tests/lab/trap_fixture.h"

namespace lab {
namespace {

using pcow::kChunkSize;
using pcow::kPageSize;
using pcow::kPagesPerChunk;
using tiering::CommitReport;
using tiering::Region;
using tiering::testing::must;

// The guest's words are at the places of the marks of fixture.h.
uint32_t gpa_of(uint64_t page) {
  return MicroVm::kMemoryGpa +
         static_cast<uint32_t>(page * kPageSize + tiering::testing::kMarkOffset);
}

void expect_ok(const MicroVm::Outcome& outcome, const std::string& what) {
  if (!outcome.ok()) throw CheckFailed(what + ": " + outcome.text());
}

// Behind the word that a check stores to, in the same line.
constexpr uint32_t kBeside = 8;

uint32_t load(MicroVm& vm, uint64_t page, uint32_t offset = 0) {
  const MicroVm::Outcome outcome = vm.read(gpa_of(page) + offset);
  expect_ok(outcome, "guest load");
  return outcome.value;
}

void store(MicroVm& vm, uint64_t page, uint32_t value) {
  expect_ok(vm.write(gpa_of(page), value), "guest store");
}

// --- a store that the host's mapping does not allow is a bare -EFAULT --------------------------

// Two chunks: the first is cached, half of its pages owned by the image; the second is a hole.
class StoringGuest {
 public:
  StoringGuest(Region& region, pcow::Image& image)
      : region_(region), image_(image), vm_({region.base(), region.size()}) {}

  // Stores to every page, and sees it in guest and image after a commit.
  CommitReport store_everywhere(uint32_t first_value, bool may_demote, const std::string& when) {
    expect_ok(vm_.fill(gpa_of(0), kPages, first_value), "guest stores " + when);
    const CommitReport report = must(region_.commit(may_demote));
    expect_equal(report.scanned_pages, kPages, "pages the commit saw, " + when);
    expect_equal(report.written_pages, kPages, "pages the commit wrote, " + when);
    for (uint32_t page = 0; page < kPages; ++page) {
      const std::string of = "page " + std::to_string(page) + ", " + when;
      expect_equal(tiering::testing::image_mark(image_, page), first_value + page, "image " + of);
    }
    return report;
  }
  void expect_loads(uint32_t first_value, const std::string& when) {
    for (uint32_t page = 0; page < kPages; ++page) {
      const std::string of = "page " + std::to_string(page) + ", " + when;
      expect_equal(load(vm_, page), first_value + page, "guest " + of);
    }
  }

  static constexpr uint32_t kPages = 2 * kPagesPerChunk;

 private:
  Region& region_;
  pcow::Image& image_;
  MicroVm vm_;
};

void check_guest_stores_succeed(const std::string& path, Care care, const NextStep& next_step) {
  constexpr uint32_t kPages = StoringGuest::kPages;
  const auto image = create_filled_image(path, kPages * kPageSize, kPagesPerChunk / 2);
  const auto region = must(Region::map(*image, {.dram_size = kPageSize}));
  expect_equal(must(region->status()).cached_chunks, 1, "cached chunks at first");
  if (care == Care::kRemoved && mprotect(region->base(), region->size(), PROT_READ) != 0) {
    throw std::runtime_error("mprotect failed");
  }
  next_step("stores of a guest", kStepSeconds);
  StoringGuest guest(*region, *image);
  guest.store_everywhere(10'000, false, "into a cached chunk and a hole");
  const CommitReport report = guest.store_everywhere(20'000, true, "after a commit");
  expect_equal(report.demoted_pages, kPages, "pages demoted");
  expect_equal(must(region->status()).cached_chunks, 2, "cached chunks after demotion");
  guest.expect_loads(20'000, "after demotion and conversion");
  guest.store_everywhere(30'000, true, "after demotion and conversion, and loads");
  guest.store_everywhere(40'000, false, "after demotion, without loads before");
  guest.expect_loads(40'000, "at the end");
}

TEST_F(KernelTrapTest, AGuestCanStoreToEveryPageInEveryState) {
  expect_passes([&](const NextStep& next_step) {
    check_guest_stores_succeed(image_path(), Care::kTaken, next_step);
  });
}

TEST_F(KernelTrapTest, AGuestStoreToAReadOnlyMappingStopsTheVirtualMachine) {
  expect_trap(
      "a guest store to a read-only mapping is a bare -EFAULT of KVM_RUN",
      [&](const NextStep& next_step) {
        check_guest_stores_succeed(image_path(), Care::kRemoved, next_step);
      },
      "failed: guest stores into a cached chunk and a hole: KVM_RUN failed with EFAULT, exit "
      "reason 0, at guest-physical page " +
          std::to_string(MicroVm::kMemoryGpa / kPageSize));
}

// --- the nested page table follows demotion and promotion --------------------------------------

// The segment of the first GiB, mapped shared: what the medium holds.
class Medium {
 public:
  Medium(const pcow::Image& image, uint64_t size) : size_(size) {
    const auto segment = must(image.layout(pcow::GibIndex(0))).segment;
    if (segment.size() != 1) throw std::runtime_error("the image has no segment");
    void* base = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, image.fd(),
                      static_cast<off_t>(segment[0].offset));
    if (base == MAP_FAILED) throw std::runtime_error("cannot map the image shared");
    base_ = static_cast<std::byte*>(base);
  }
  ~Medium() { munmap(base_, size_); }
  Medium(const Medium&) = delete;
  Medium& operator=(const Medium&) = delete;

  uint32_t load(uint64_t page, uint32_t offset = 0) const {
    uint32_t value = 0;
    std::memcpy(&value, at(page) + offset, sizeof value);
    return value;
  }
  void store(uint64_t page, uint32_t value, uint32_t offset = 0) const {
    std::memcpy(at(page) + offset, &value, sizeof value);
  }

 private:
  std::byte* at(uint64_t page) const {
    return base_ + page * kPageSize + tiering::testing::kMarkOffset;
  }

  std::byte* base_ = nullptr;
  uint64_t size_;
};

// One page of a chunk that was cached, one of a chunk that was a hole.
constexpr uint64_t kFollowedPages[] = {3, kPagesPerChunk + 3};

void check_guest_follows(MicroVm& vm, const Medium& medium, uint64_t page) {
  const std::string of = " of page " + std::to_string(page);
  expect_equal(load(vm, page), 100 + page, "guest's view" + of + " after the commit");
  expect_equal(medium.load(page), 100 + page, "medium's view" + of + " after the commit");
  medium.store(page, 777);
  expect_equal(load(vm, page), 777, "guest's view" + of + " after a change on the medium");
  // Promotion: a copy of its own, of all that was there, which neither changes the medium nor
  // follows it.
  medium.store(page, 555, kBeside);
  store(vm, page, 888);
  expect_equal(load(vm, page), 888, "guest's view" + of + " after its own store");
  expect_equal(medium.load(page), 777, "medium's view" + of + " after a store of the guest");
  medium.store(page, 999);
  medium.store(page, 556, kBeside);
  expect_equal(load(vm, page), 888, "guest's view" + of + " after promotion");
  expect_equal(load(vm, page, kBeside), 555, "guest's view of the rest" + of);
}

void check_guest_sees_the_demotion(const std::string& path, Care care, const NextStep& next_step) {
  constexpr uint64_t kSize = 2 * kChunkSize;
  const auto image = create_filled_image(path, kSize, kPagesPerChunk);
  const auto region = must(Region::map(*image, {.dram_size = kPageSize}));
  next_step("a guest and a commit", kStepSeconds);
  MicroVm vm({region->base(), region->size()});
  for (const uint64_t page : kFollowedPages) {
    for (uint64_t near = page - 3; near < page + 3; ++near) {
      store(vm, near, static_cast<uint32_t>(100 + near));
    }
  }
  const CommitReport report = must(region->commit(care == Care::kTaken));
  expect_equal(report.written_pages, 12, "pages written");
  next_step("a guest on demoted pages", kStepSeconds);
  const Medium medium(*image, kSize);
  for (const uint64_t page : kFollowedPages) check_guest_follows(vm, medium, page);
  // What is promoted is dirty and nothing else is: the commit takes the guest's view.
  expect_equal(must(region->commit(false)).written_pages, 2, "pages written after promotion");
  for (const uint64_t page : kFollowedPages) {
    expect_equal(medium.load(page), 888, "medium's view after the commit of a promoted page");
    expect_equal(medium.load(page, kBeside), 555, "medium's view of the rest of that page");
  }
}

TEST_F(KernelTrapTest, TheGuestFollowsDemotionAndPromotion) {
  expect_passes([&](const NextStep& next_step) {
    check_guest_sees_the_demotion(image_path(), Care::kTaken, next_step);
  });
}

TEST_F(KernelTrapTest, WithoutDemotionTheGuestKeepsItsCopy) {
  expect_trap(
      "a page that was not demoted stays a private copy",
      [&](const NextStep& next_step) {
        check_guest_sees_the_demotion(image_path(), Care::kRemoved, next_step);
      },
      "failed: guest's view of page 3 after a change on the medium: 103 instead of 777");
}

}  // namespace
}  // namespace lab
