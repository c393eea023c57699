// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs of a guest that stores faster than the log takes, and of one whose medium is full.
#include <unistd.h>

#include <vector>

#include "tests/support/small_tmpfs.h"
#include "tests/unit/tiering/epoch_fixture.h"
#include "tests/unit/tiering/image_decorator.h"
#include "tiering/address_space.h"
#include "tiering/guest_brake.h"
#include "tiering/kernel/advice.h"
#include "tiering/kernel/page_faults.h"

namespace tiering::testing {
namespace {

using pcow::kMiB;
using pcow::kPageSize;
using std::chrono::milliseconds;

// --- the brake alone -----------------------------------------------------------------------------

class GuestBrakeTest : public ::testing::Test {
 protected:
  // So many page faults of this process.
  static void fault(uint64_t pages) {
    const AddressSpace space = must(AddressSpace::map(pages * kPageSize, kPageSize));
    must(kernel::advise_huge_pages(space.base(), space.size(), kernel::HugePages::kNever));
    for (uint64_t page = 0; page < pages; ++page) *space.at(page * kPageSize) = std::byte{1};
  }
  void look(uint64_t room_pages) { brake_.looked({room_pages, 0, kernel::page_faults()}); }
  // Whether the guest gets to run within this time.
  bool guest_runs() {
    for (int i = 0; i < 50; ++i) {
      if (host_.asking == 0 && host_.guest.try_lock_shared()) {
        host_.guest.unlock_shared();
        return true;
      }
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
  template <typename Fn>
  static bool comes_true(const Fn& reached) {
    for (int i = 0; i < 10000 && !reached(); ++i) std::this_thread::sleep_for(milliseconds(1));
    return reached();
  }

  Host host_;
  std::atomic<int> filling_{0};
  GuestBrake brake_{host_, [this] { ++filling_; }};
};

TEST_F(GuestBrakeTest, AGuestIsHeldUntilThereIsRoom) {
  must(brake_.start());
  look(1'000'000);
  fault(2000);
  EXPECT_TRUE(guest_runs());
  EXPECT_EQ(filling_, 0);
  look(4000);
  fault(10000);
  ASSERT_TRUE(comes_true([&] { return host_.barriers == 1; }));
  EXPECT_FALSE(guest_runs());
  EXPECT_EQ(filling_, 1);
  EXPECT_TRUE(brake_.is_full());
  look(1'000'000);
  EXPECT_TRUE(comes_true([&] { return guest_runs(); }));
  EXPECT_FALSE(brake_.is_filling());
  EXPECT_EQ(brake_.statistics().holds, 1U);
  EXPECT_GE(brake_.statistics().held, milliseconds(50));
}

TEST_F(GuestBrakeTest, TheBarrierTakesOver) {
  must(brake_.start());
  look(1000);
  fault(3000);
  ASSERT_TRUE(comes_true([&] { return host_.barriers == 1; }));
  bool called = false;
  EXPECT_TRUE(brake_.while_quiet([&] {
    called = true;
    look(1'000'000);
  }));
  EXPECT_TRUE(called);
  EXPECT_TRUE(guest_runs());
  EXPECT_EQ(host_.barriers, 1) << "the guest has not run in between";
}

TEST_F(GuestBrakeTest, StoppingLetsGo) {
  must(brake_.start());
  look(1000);
  fault(3000);
  ASSERT_TRUE(comes_true([&] { return host_.barriers == 1; }));
  brake_.stop();
  EXPECT_TRUE(guest_runs());
}

TEST_F(GuestBrakeTest, AHostThatCannotBeQuietIsAskedAgain) {
  host_.refusals = 5;
  must(brake_.start());
  look(1000);
  fault(3000);
  EXPECT_TRUE(comes_true([&] { return host_.barriers == 1; }));
  EXPECT_EQ(host_.refusals, 0);
}

// Nobody knows how long that takes: the host gets other work done in between.
TEST_F(GuestBrakeTest, WhoWaitsForTheMediumHoldsTheGuestInSlices) {
  must(brake_.start());
  brake_.set_waits(true);
  look(1000);
  fault(3000);
  ASSERT_TRUE(comes_true([&] { return host_.barriers == 1; }));
  ASSERT_TRUE(comes_true([&] { return guest_runs(); })) << "the slice ends";
  std::this_thread::sleep_for(milliseconds(20));
  const int slices = host_.barriers;
  fault(1000);
  EXPECT_TRUE(comes_true([&] { return host_.barriers > slices; })) << "it goes on storing";
}

// --- a guest that is faster than the log ---------------------------------------------------------

// Changes a quarter of a page's lines.
__attribute__((no_sanitize("thread"))) void store_lines(Region& region, uint64_t page,
                                                        uint64_t value) {
  for (uint64_t line = 0; line < pcow::kLinesPerPage / 4; ++line) {
    std::byte* at = region.base() + page * kPageSize + line * pcow::kLineSize;
    *reinterpret_cast<volatile uint64_t*>(at) = value;
  }
}

uint64_t value_in(const pcow::Image& image, uint64_t page) {
  std::vector<uint64_t> words(kPageSize / 8);
  must(image.read(page * kPageSize, std::as_writable_bytes(std::span(words))));
  for (uint64_t line = 1; line < pcow::kLinesPerPage / 4; ++line) {
    if (words[line * pcow::kLineSize / 8] != words[0]) {
      throw std::runtime_error("page " + std::to_string(page) + " is of two moments");
    }
  }
  return words[0];
}

class EpochPressureTest : public EpochThreadTest {
 protected:
  static constexpr uint64_t kPages = 12000;
  static constexpr uint64_t kLogSize = 8 * kMiB;

  void create_small_log() {
    must(pcow::Image::create(path(), {.virtual_size = 64 * kMiB, .log_size = kLogSize}));
    open();
  }
  // All pages in turn, so that any moment is `round` up to some page and the round before behind.
  void store_round(uint64_t round) {
    for (uint64_t page = 0; page < kPages; ++page) {
      host_.run([&] { store_lines(*region_, page, round); });
    }
  }
  // What the image holds is of one moment; returns the newest round.
  uint64_t check_moment() {
    const uint64_t newest = value_in(image(), 0);
    uint64_t expected = newest;
    for (uint64_t page = 1; page < kPages; ++page) {
      const uint64_t value = value_in(image(), page);
      if (value == expected) continue;
      EXPECT_EQ(expected, newest) << "page " << page;
      EXPECT_EQ(value, newest - 1) << "page " << page;
      if (HasFailure()) return 0;
      expected = value;
    }
    return newest;
  }
};

// Every round changes more than the log holds, in less time than it takes to write.
TEST_F(EpochPressureTest, AGuestThatIsFasterThanTheLogIsHeldAndLosesNothing) {
  create_small_log();
  ImageDecorator limited(image());
  limited.log_size_max = kLogSize;
  EpochManager& manager = start(limited, kNever);
  store_round(1);
  must(flush(manager));
  uint64_t before = manager.statistics().epochs;
  for (uint64_t round = 2; round <= 12; ++round) {
    store_round(round);
    const uint64_t epochs = manager.statistics().epochs;
    EXPECT_GT(epochs, before) << "epochs go on while the guest stores";
    before = epochs;
  }
  ASSERT_EQ(host_.failures, 0);
  EXPECT_GT(manager.statistics().early_epochs, 0U);
  for (uint64_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(*reinterpret_cast<const uint64_t*>(region_->base() + page * kPageSize), 12U);
  }
  stop();
  drop();
  open();
  EXPECT_GE(check_moment(), 11U);
  close();
}

// The medium takes its time over a commit, and nothing tells the guest but the brake.
class SlowImage final : public ImageDecorator {
 public:
  using ImageDecorator::ImageDecorator;
  pcow::Result<pcow::Epoch> commit() override {
    if (slow) std::this_thread::sleep_for(milliseconds(50));
    return ImageDecorator::commit();
  }
  std::atomic<bool> slow{false};
};

TEST_F(EpochPressureTest, AGuestIsHeldWhileTheMediumIsSlow) {
  create_small_log();
  SlowImage slow(image());
  EpochManager& manager = start(slow, kNever);
  store_round(1);
  must(flush(manager));
  slow.slow = true;
  for (uint64_t round = 2; round <= 4; ++round) store_round(round);
  must(flush(manager));
  EXPECT_EQ(host_.failures, 0);
  const EpochStatistics statistics = manager.statistics();
  EXPECT_GT(statistics.holds, 0U);
  EXPECT_GT(statistics.held, milliseconds(50));
  stop();
  drop();
  open();
  EXPECT_EQ(check_moment(), 4U);
  close();
}

// --- a full medium -------------------------------------------------------------------------------

class FullMediumEpochTest : public EpochThreadTest {
 protected:
  FullMediumEpochTest() {
    must(pcow::Image::create(path_, {.virtual_size = 32 * kMiB, .log_size = 8 * kMiB}));
    full_image_ = must(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
  }
  void fill() { medium_.fill("filler"); }
  void make_space() { ASSERT_EQ(unlink(medium_.file("filler").c_str()), 0); }
  uint64_t kept(uint64_t page) {
    return guarded_->with([&](Region&) { return image_mark(*full_image_, page); });
  }

  const test::SmallTmpfs medium_{32 * kMiB};
  const std::string path_ = medium_.file("vm.pcow");
  std::unique_ptr<pcow::Image> full_image_;
};

TEST_F(FullMediumEpochTest, EpochsGoOnWhenThereIsSpaceAgain) {
  EpochManager& manager = start(*full_image_, kFast);
  store(1, 1);
  must(flush(manager));
  fill();
  for (uint64_t page = 0; page < 1000; ++page) store(page, 2);
  EXPECT_EQ(flush(manager).error().code, pcow::Code::kNoSpace);
  std::promise<pcow::Result<pcow::Epoch>> patient;
  manager.flush([&](const pcow::Result<pcow::Epoch>& result) { patient.set_value(result); },
                WhenFull::kWait);
  auto answer = patient.get_future();
  const int failures = host_.failures;
  wait_for([&] { return host_.failures >= failures + 3; });
  EXPECT_FALSE(host_.has_ended);
  EXPECT_EQ(host_.last_failure, pcow::Code::kNoSpace);
  EXPECT_EQ(host_.recoveries, 0);
  EXPECT_EQ(answer.wait_for(milliseconds(0)), std::future_status::timeout);
  EXPECT_EQ(kept(1), 1U) << "the last epoch";
  make_space();
  const auto result = answer.get();
  ASSERT_TRUE(result) << result.error().message;
  wait_for([&] { return host_.recoveries == 1; });
  for (uint64_t page = 0; page < 1000; ++page) ASSERT_EQ(kept(page), 2U);
  store(5, 3);
  must(flush(manager));
  EXPECT_EQ(host_.recoveries, 1);
  stop();
  full_image_.reset();
  full_image_ = must(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
  EXPECT_EQ(image_mark(*full_image_, 5), 3U);
}

// Space comes and goes while the guest stores all the time.
TEST_F(FullMediumEpochTest, AGuestThatGoesOnStoringLosesNothing) {
  fill();
  EpochManager& manager = start(*full_image_, kFast);
  std::atomic<bool> ending{false};
  std::atomic<uint64_t> round{0};
  std::thread guest([&] {
    while (!ending) {
      for (uint64_t page = 0; page < 2000; ++page) store(page, round + 1);
      ++round;
    }
  });
  wait_for([&] { return host_.failures > 0; });
  for (int times = 0; times < 3; ++times) {
    std::this_thread::sleep_for(milliseconds(150));
    make_space();
    const uint64_t epochs = manager.statistics().epochs;
    wait_for([&] { return manager.statistics().epochs >= epochs + 5; });
    fill();
  }
  make_space();
  ending = true;
  guest.join();
  must(flush(manager, WhenFull::kWait));
  EXPECT_FALSE(host_.has_ended);
  stop();
  full_image_.reset();
  full_image_ = must(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
  for (uint64_t page = 0; page < 2000; ++page) ASSERT_EQ(image_mark(*full_image_, page), round);
}

// The barrier before it is committed at last; but it does not cover this flush.
TEST_F(FullMediumEpochTest, AFlushThatCameAfterABarrierWaitsForTheNextOne) {
  class Stubborn final : public ImageDecorator {
   public:
    using ImageDecorator::ImageDecorator;
    pcow::Result<pcow::Epoch> commit() override {
      if (full) return pcow::make_error(pcow::Code::kNoSpace, "injected");
      return ImageDecorator::commit();
    }
    std::atomic<bool> full{true};
  };
  Stubborn stubborn(*full_image_);
  EpochManager& manager = start(stubborn, kNever);
  store(1, 1);
  std::promise<pcow::Result<pcow::Epoch>> first;
  manager.flush([&](const pcow::Result<pcow::Epoch>& result) { first.set_value(result); },
                WhenFull::kWait);
  wait_for([&] { return host_.failures > 0; });
  store(1, 2);
  std::promise<pcow::Result<pcow::Epoch>> second;
  manager.flush([&](const pcow::Result<pcow::Epoch>& result) { second.set_value(result); },
                WhenFull::kWait);
  const int failures = host_.failures;
  wait_for([&] { return host_.failures >= failures + 2; });
  stubborn.full = false;
  const pcow::Epoch one = must(first.get_future().get());
  const pcow::Epoch two = must(second.get_future().get());
  EXPECT_LT(one, two);
  EXPECT_EQ(kept(1), 2U);
  stop();
}

TEST_F(FullMediumEpochTest, StoppingAnswersWhoWaitsForSpace) {
  EpochManager& manager = start(*full_image_, kNever);
  fill();
  store(1, 1);
  std::promise<pcow::Result<pcow::Epoch>> patient;
  manager.flush([&](const pcow::Result<pcow::Epoch>& result) { patient.set_value(result); },
                WhenFull::kWait);
  wait_for([&] { return host_.failures > 0; });
  manager.stop();
  EXPECT_EQ(patient.get_future().get().error().code, pcow::Code::kInvalid);
  stop();
}

}  // namespace
}  // namespace tiering::testing
