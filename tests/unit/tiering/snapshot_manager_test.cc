// SPDX-License-Identifier: BSD-3-Clause
//
// Snapshots and deletions by an EpochManager, while a guest stores; epochs of several regions that
// are of the same moment.
#include "tests/support/image_fixture.h"
#include "tests/unit/tiering/epoch_fixture.h"
#include "tests/unit/tiering/image_decorator.h"

namespace tiering::testing {
namespace {

using pcow::Code;
using pcow::kGiB;
using pcow::kMiB;
using pcow::kPagesPerChunk;

class SnapshotManagerTest : public EpochThreadTest {
 protected:
  pcow::ImageInfo info() {
    return guarded_->with([&](Region&) { return image().info(); });
  }
  // What a snapshot keeps, after the last commit.
  void close_all() {
    manager_.reset();
    must(region_->commit(false));
    guarded_.reset();
    region_.reset();
    must(image().reclaim_unowned());
    close();
    test::expect_clean_check(path(), true);
  }
  uint64_t kept(const std::string& name, uint64_t page) {
    return image_mark(*must(pcow::Image::open(path(), {.snapshot = name})), page);
  }
};

TEST_F(SnapshotManagerTest, KeepsTheMemoryOfItsBarrier) {
  create(64 * kMiB);
  EpochManager& manager = start(image(), kNever);
  for (uint64_t i = 1; i <= 10; ++i) {
    store(0, i);
    store(i, i);
    must(take_snapshot(manager, "s" + std::to_string(i)));
    store(0, 1000);
  }
  EXPECT_EQ(take_snapshot(manager, "s3").error().code, Code::kExists);
  EXPECT_EQ(take_snapshot(manager, "").error().code, Code::kInvalid);
  EXPECT_EQ(host_.failures, 0);
  close_all();
  for (uint64_t i = 1; i <= 10; ++i) {
    EXPECT_EQ(kept("s" + std::to_string(i), 0), i);
    EXPECT_EQ(kept("s" + std::to_string(i), i), i);
    EXPECT_EQ(kept("s" + std::to_string(i), i + 1), 0U);
  }
}

TEST_F(SnapshotManagerTest, ItIsOfOneMomentHoweverFastTheGuestStores) {
  create(64 * kMiB);
  EpochManager& manager = start(image(), kFast);
  std::atomic<bool> stop{false};
  // Each page is stored to after the one before it, so a moment has values that descend by 1 at
  // most.
  constexpr uint64_t kPages = 200;
  std::thread guest([&] {
    for (uint64_t value = 1; !stop; ++value) {
      for (uint64_t page = 0; page < kPages && !stop; ++page) store(page, value);
    }
  });
  for (int i = 0; i < 20; ++i) {
    must(take_snapshot(manager, std::to_string(i)));
    if (i >= 5) {
      auto gone = delete_snapshot(manager, std::to_string(i - 5));
      while (!gone && gone.error().code == Code::kBusy) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        gone = delete_snapshot(manager, std::to_string(i - 5));
      }
      must(gone);
    }
  }
  stop = true;
  guest.join();
  wait_for([&] { return !info().deleting; });
  EXPECT_FALSE(manager.deletion_error());
  EXPECT_EQ(host_.failures, 0);
  close_all();
  uint64_t last = 0;
  for (int i = 15; i < 20; ++i) {
    uint64_t before = kept(std::to_string(i), 0);
    EXPECT_GE(before, last);
    last = before;
    int steps = 0;
    for (uint64_t page = 1; page < kPages; ++page) {
      const uint64_t here = kept(std::to_string(i), page);
      ASSERT_TRUE(here == before || here + 1 == before) << page;
      steps += here == before ? 0 : 1;
      before = here;
    }
    EXPECT_LE(steps, 1);
  }
}

// Each flush as soon as the one before is answered, so that an epoch is wanted all the time.
TEST_F(SnapshotManagerTest, DeletionsGoOnWhileSomebodyFlushesAllTheTime) {
  create(64 * kMiB);
  EpochManager& manager = start(image(), kNever);
  for (uint64_t page = 0; page < 2000; ++page) store(page, page + 1);
  must(take_snapshot(manager, "one"));
  std::atomic<bool> stop{false};
  std::function<void(const pcow::Result<pcow::Epoch>&)> again = [&](const auto& result) {
    if (!stop && result) manager.flush(again);
  };
  manager.flush(again);
  manager.flush(again);
  std::promise<pcow::Result<void>> gone;
  std::future<pcow::Result<void>> answer = gone.get_future();
  manager.delete_snapshot("one", [&](const pcow::Result<void>& r) { gone.set_value(r); });
  const bool answered = answer.wait_for(std::chrono::seconds(20)) == std::future_status::ready;
  EXPECT_TRUE(answered);
  if (answered) {
    must(answer.get());
    wait_for([&] { return !info().deleting; });
  }
  stop = true;
  close_all();
}

// Without a barrier that the guest would need: what is given up is left at one that is made for it.
TEST_F(SnapshotManagerTest, ADeletionEndsAlsoWhenTheGuestIsIdle) {
  create(kGiB);
  EpochManager& manager = start(image(), kFast, kMiB);
  for (uint64_t page = 0; page < 2000; ++page) store(page, page + 1);
  must(take_snapshot(manager, "one"));
  for (uint64_t page = 0; page < 1500; ++page) store(9 * kPagesPerChunk + page, page + 1);
  store(5, 1005);
  must(flush(manager));
  must(delete_snapshot(manager, "one"));
  EXPECT_EQ(delete_snapshot(manager, "one").error().code, Code::kNotFound);
  wait_for([&] { return !info().deleting; });
  for (uint64_t page = 0; page < 2000; ++page) {
    ASSERT_EQ(mark(*region_, page), page == 5 ? 1005 : page + 1);
  }
  for (uint64_t page = 0; page < 1500; ++page) {
    ASSERT_EQ(mark(*region_, 9 * kPagesPerChunk + page), page + 1);
  }
  EXPECT_EQ(host_.failures, 0);
  close_all();
}

TEST_F(SnapshotManagerTest, AStepThatFailsIsToldAndTriedAgain) {
  create(64 * kMiB);
  ImageDecorator decorator(image());
  decorator.failure = Code::kNoSpace;
  EpochManager& manager = start(decorator, kNever);
  store(1, 1);
  must(take_snapshot(manager, "one"));
  store(1, 2);
  must(flush(manager));
  guarded_->with([&](Region&) { decorator.fail_deletion_in = 1; });
  must(delete_snapshot(manager, "one"));
  wait_for([&] { return manager.deletion_error().has_value(); });
  EXPECT_EQ(manager.deletion_error()->code, Code::kNoSpace);
  store(2, 2);
  must(flush(manager));
  wait_for([&] { return !info().deleting; });
  EXPECT_FALSE(manager.deletion_error());
  EXPECT_EQ(host_.failures, 0);  // epochs are not concerned
  stop();
}

TEST_F(SnapshotManagerTest, AnEpochThatFailsFailsItsSnapshots) {
  create(8 * kMiB);
  ImageDecorator decorator(image());
  decorator.failure = Code::kNoSpace;
  decorator.fail_log_in = 1;
  EpochManager& manager = start(decorator, kNever);
  store(1, 1);
  EXPECT_EQ(take_snapshot(manager, "one").error().code, Code::kNoSpace);
  must(take_snapshot(manager, "one"));
  manager.stop();
  EXPECT_EQ(take_snapshot(manager, "two").error().code, Code::kInvalid);
  EXPECT_EQ(delete_snapshot(manager, "one").error().code, Code::kInvalid);
  EXPECT_EQ(must(region_->snapshots()).size(), 1U);
  stop();
}

// Two regions whose pages are stored to in turn.
class TwoRegionsTest : public SnapshotManagerTest {
 protected:
  void SetUp() override {
    create(64 * kMiB);
    start(image(), kNever);
    must(pcow::Image::create(other_path_, {.virtual_size = 64 * kMiB}));
    other_image_ = must(pcow::Image::open(other_path_, {.access = pcow::Access::kReadWrite}));
    other_region_ = map_region(*other_image_, {.persistence = Persistence::kEpoch});
    other_guarded_.emplace(*other_region_);
    other_.emplace(*other_guarded_, host_, EpochOptions{.interval = kNever});
    must(other_->start());
  }
  static pcow::Result<void> hold(EpochManager& manager) {
    std::promise<pcow::Result<void>> answer;
    manager.hold([&](const pcow::Result<void>& result) { answer.set_value(result); });
    return answer.get_future().get();
  }

  test::TempDir other_directory_;
  const std::string other_path_ = other_directory_.file("other.pcow");
  std::unique_ptr<pcow::Image> other_image_;
  std::unique_ptr<Region> other_region_;
  std::optional<GuardedRegion> other_guarded_;
  std::optional<EpochManager> other_;
};

TEST_F(TwoRegionsTest, SnapshotsOfTheSameMoment) {
  std::atomic<bool> stop{false};
  std::thread guest([&] {
    for (uint64_t value = 1; !stop; ++value) {
      store(1, value);
      const std::shared_lock running(host_.guest);
      guest_store(*other_region_, 1, value);
    }
  });
  std::vector<std::future<pcow::Result<void>>> answers;
  for (int i = 0; i < 5; ++i) {
    must(hold(*manager_));
    must(hold(*other_));
    EXPECT_EQ(hold(*other_).error().code, Code::kInvalid);
    {
      const std::unique_lock quiet(host_.guest);
      for (EpochManager* manager : {&*manager_, &*other_}) {
        auto answer = std::make_shared<std::promise<pcow::Result<void>>>();
        answers.push_back(answer->get_future());
        manager->create_snapshot(std::to_string(i), [answer](const pcow::Result<void>& result) {
          answer->set_value(result);
        });
        must(manager->barrier_held());
        EXPECT_EQ(manager->barrier_held().error().code, Code::kInvalid);
      }
    }
    manager_->release();
    other_->release();
  }
  for (auto& answer : answers) must(answer.get());
  stop = true;
  guest.join();
  EXPECT_EQ(host_.barriers, 0);
  other_.reset();
  other_guarded_.reset();
  other_region_.reset();
  must(other_image_->close());
  close_all();
  for (int i = 0; i < 5; ++i) {
    const uint64_t first = kept(std::to_string(i), 1);
    const uint64_t second =
        image_mark(*must(pcow::Image::open(other_path_, {.snapshot = std::to_string(i)})), 1);
    EXPECT_TRUE(first == second || first == second + 1) << first << " and " << second;
  }
}

// Who makes the barrier needs quiet itself, so it must not wait for a brake that waits for it.
TEST_F(TwoRegionsTest, AGuestThatFillsTheLogMeanwhileDoesNotKeepTheBarrierAway) {
  must(hold(*manager_));
  must(hold(*other_));
  std::thread guest([&] {
    for (uint64_t page = 0; page < 15000; ++page) store(page, page + 1);
  });
  wait_for([&] { return manager_->statistics().holds > 0; });
  if (!HasFailure()) {
    ++host_.asking;
    const std::unique_lock quiet(host_.guest);
    --host_.asking;
    must(manager_->barrier_held());
    must(other_->barrier_held());
  }
  manager_->release();
  other_->release();
  guest.join();
  must(flush(*manager_));
  EXPECT_EQ(host_.failures, 0);
  other_.reset();
  close_all();
  const auto image = must(pcow::Image::open(path(), {}));
  for (uint64_t page = 0; page < 15000; ++page) ASSERT_EQ(image_mark(*image, page), page + 1);
}

TEST_F(TwoRegionsTest, AFlushWaitsForTheReleaseAndStoppingEndsIt) {
  store(1, 1);
  must(hold(*manager_));
  std::promise<pcow::Result<pcow::Epoch>> flushed;
  auto answer = flushed.get_future();
  manager_->flush([&](const pcow::Result<pcow::Epoch>& result) { flushed.set_value(result); });
  EXPECT_EQ(answer.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  manager_->release();  // without a barrier: the thread makes its own
  must(answer.get());
  EXPECT_EQ(host_.barriers, 1);
  EXPECT_EQ(manager_->barrier_held().error().code, Code::kInvalid);
  must(hold(*manager_));
  manager_->stop();
  EXPECT_EQ(hold(*manager_).error().code, Code::kInvalid);
  other_.reset();
}

}  // namespace
}  // namespace tiering::testing
