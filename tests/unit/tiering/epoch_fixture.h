// SPDX-License-Identifier: BSD-3-Clause
//
// What tests of the thread that makes epochs share: a guest that can be made quiet.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <thread>

#include "tests/unit/tiering/fixture.h"
#include "tiering/epoch_manager.h"

namespace tiering::testing {

// A guest's store, which rounds race with by design: no data race for ThreadSanitizer.
__attribute__((no_sanitize("thread"))) inline void guest_store(Region& region, uint64_t page,
                                                               uint64_t value) {
  std::byte* at = region.base() + page * pcow::kPageSize + kMarkOffset;
  *reinterpret_cast<volatile uint64_t*>(at) = value;
}

// A guest that holds a shared lock while it stores.
class Host final : public EpochHost {
 public:
  bool while_quiet(const std::function<void()>& body) override {
    if (refusals > 0) {
      --refusals;
      return false;
    }
    ++asking;
    const std::unique_lock quiet(guest);
    --asking;
    ++barriers;
    body();
    return true;
  }
  // Runs `stores` unless the guest has to be quiet. (A shared lock alone would let a guest that
  // stores all the time pass by who waits for quiet.)
  template <typename Fn>
  void run(const Fn& stores) {
    while (asking > 0) std::this_thread::yield();
    const std::shared_lock running(guest);
    stores();
  }
  void epoch_failed(const pcow::Error& error, bool ended) override {
    last_failure = error.code;
    has_ended = ended;
    ++failures;
  }
  void epochs_recovered() override { ++recoveries; }
  void log_grown(uint64_t, bool) override { ++growths; }

  std::shared_mutex guest;
  std::atomic<int> refusals{0};
  std::atomic<int> barriers{0};
  std::atomic<int> asking{0};
  std::atomic<int> failures{0};
  std::atomic<int> recoveries{0};
  std::atomic<int> growths{0};
  std::atomic<pcow::Code> last_failure{pcow::Code::kInternal};
  std::atomic<bool> has_ended{false};
};

class EpochThreadTest : public ImageTest {
 protected:
  static constexpr IntervalOptions kFast{.min = std::chrono::milliseconds(2),
                                         .max = std::chrono::milliseconds(2)};
  static constexpr IntervalOptions kNever{.min = std::chrono::hours(1),
                                          .max = std::chrono::hours(1)};

  EpochManager& start(pcow::Image& image, const IntervalOptions& interval, uint64_t dram = 0) {
    region_ = map_region(image, {.persistence = Persistence::kEpoch, .dram_size = dram});
    guarded_.emplace(*region_);
    manager_.emplace(*guarded_, host_, EpochOptions{.interval = interval});
    must(manager_->start());
    return *manager_;
  }
  using WhenFull = EpochManager::WhenFull;
  static pcow::Result<pcow::Epoch> flush(EpochManager& manager,
                                         WhenFull when_full = WhenFull::kFail) {
    std::promise<pcow::Result<pcow::Epoch>> answer;
    manager.flush([&](const pcow::Result<pcow::Epoch>& result) { answer.set_value(result); },
                  when_full);
    return answer.get_future().get();
  }
  static pcow::Result<void> take_snapshot(EpochManager& manager, const std::string& name) {
    std::promise<pcow::Result<void>> answer;
    manager.create_snapshot(name, [&](const pcow::Result<void>& r) { answer.set_value(r); });
    return answer.get_future().get();
  }
  static pcow::Result<void> delete_snapshot(EpochManager& manager, const std::string& name) {
    std::promise<pcow::Result<void>> answer;
    manager.delete_snapshot(name, [&](const pcow::Result<void>& r) { answer.set_value(r); });
    return answer.get_future().get();
  }
  void store(uint64_t page, uint64_t value) {
    host_.run([&] { guest_store(*region_, page, value); });
  }
  pcow::Result<RegionStatus> region_status() {
    return guarded_->with([](Region& region) { return region.status(); });
  }
  template <typename Fn>
  static void wait_for(const Fn& reached) {
    for (int i = 0; i < 20000 && !reached(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(reached());
  }
  void stop() {
    manager_.reset();
    guarded_.reset();
    region_.reset();
  }

  Host host_;
  std::unique_ptr<Region> region_;
  std::optional<GuardedRegion> guarded_;
  std::optional<EpochManager> manager_;
};

}  // namespace tiering::testing
