// SPDX-License-Identifier: BSD-3-Clause
#include "tests/torture/session.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "tests/torture/broken.h"
#include "tests/torture/device.h"
#include "tests/torture/guest.h"
#include "tests/unit/tiering/image_decorator.h"
#include "tiering/epoch_manager.h"
#include "tiering/migration.h"
#include "tiering/region_impl.h"

namespace torture {

namespace {

using std::chrono::milliseconds;

// Less than the guest stores to between two barriers, however slow it is.
constexpr uint64_t kDramSize = kRegionSize / 16;
// Room for pages that a policy wants to have in DRAM.
constexpr uint64_t kPolicyDramSize = kRegionSize / 2;
constexpr uint64_t kQueriesPerPolicy = 16;
constexpr uint64_t kPagesPerPromotion = 128;
constexpr uint64_t kQueriesPerSnapshot = 12;
constexpr size_t kSnapshotsKept = 2;

// What is in the log is taken for stored.
class ForgetfulImage final : public tiering::testing::ImageDecorator {
 public:
  using ImageDecorator::ImageDecorator;

  pcow::Result<pcow::PageMap> logged_pages(pcow::ChunkIndex chunk) const override {
    if (active_break == Break::kDropLogged) return pcow::PageMap{};
    return ImageDecorator::logged_pages(chunk);
  }
  pcow::Result<uint64_t> fold(pcow::ChunkIndex first, uint64_t count) override {
    auto pages = ImageDecorator::fold(first, count);
    folded_pages += pages.value_or(0);
    return pages;
  }

  std::atomic<uint64_t> folded_pages = 0;
};

class Session final : public tiering::EpochHost {
 public:
  Session(const std::string& path, SharedState& shared) : shared_(shared) {
    opened_ = take(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
    image_ = std::make_unique<ForgetfulImage>(*opened_);
    const tiering::RegionOptions options{.persistence = tiering::Persistence::kEpoch,
                                         .dram_size = kDramSize};
    region_ =
        take(tiering::map_region(*image_, options, make_tracker(tiering::backing_of(*image_))));
    guarded_ = std::make_unique<tiering::GuardedRegion>(*region_);
    migration_ = std::make_unique<tiering::Migration>(
        *guarded_, kRegionSize, kDramSize,
        tiering::MigrationOptions{.step = std::chrono::nanoseconds(0),
                                  .demoted_pages_max = 2048,
                                  .limit_pages_max = 2048,
                                  .huge_idle_min = 1});
    manager_ = std::make_unique<tiering::EpochManager>(
        *guarded_, *this,
        tiering::EpochOptions{.interval = {.min = milliseconds(1), .max = milliseconds(1)}},
        migration_.get());
  }

  void run(uint64_t seed, bool with_device) {
    check_all();
    if (with_device) device_ = std::make_unique<Device>(*region_, shared_, seed);
    guest_ =
        std::make_unique<Guest>(region_->base(), shared_, seed,
                                [this](uint64_t page, uint64_t count) { discard(page, count); });
    policy_ = seed;
    session_ = std::to_string(seed);
    change_policy();
    take(manager_->start());
    while (!shared_.quit) {
      std::this_thread::sleep_for(milliseconds(5));
      take(guarded_->with([](tiering::Region& region) { return region.status(); }));
      shared_.counters.queries.fetch_add(1, std::memory_order_relaxed);
      promote_any();
      publish();
      if (queries_++ % 8 == 0) flush_in_a_row(6);
      if (queries_ % kQueriesPerPolicy == 0) change_policy();
      if (queries_ % kQueriesPerSnapshot == 0) change_snapshots();
    }
    manager_->stop();
    device_.reset();
    guest_.reset();
    check_all();
    take(region_->commit(true));
    check_all();
    take(region_->reclaim());
    publish();
    take(opened_->close());
  }

  bool while_quiet(const std::function<void()>& body) override {
    if (active_break != Break::kRunningBarrier) guest_->pause();
    const uint64_t ordinal = shared_.barriers + 1;
    guest_store(region_->base(), ordinal);
    Cut& cut = shared_.cuts.at(ordinal % shared_.cuts.size());
    cut.ordinal = ordinal;
    cut.sequence = shared_.live;
    for (uint64_t page = 0; page < kPages; ++page)
      cut.device_done[page] = shared_.device_done[page];
    // The barrier may be committed, and the process killed, before this moment is over.
    cut.device_begun.fill(kDeviceGoesOn);
    shared_.barriers = ordinal;
    if (active_break == Break::kEarlyAck) {
      shared_.acknowledged = ordinal;
      std::this_thread::sleep_for(milliseconds(2));
    } else {
      manager_->flush([this, ordinal](const pcow::Result<pcow::Epoch>& result) {
        if (result) shared_.acknowledged = ordinal;
      });
    }
    in_barrier = true;
    body();
    in_barrier = false;
    for (uint64_t page = 0; page < kPages; ++page) {
      cut.device_begun[page] = shared_.device_begun[page];
    }
    guest_->resume();
    return true;
  }

  void epoch_failed(const pcow::Error& error, bool) override {
    die(shared_, ("an epoch failed: " + error.message).c_str());
  }
  void epochs_recovered() override {}
  void log_grown(uint64_t, bool) override {}

 private:
  template <typename T>
  T take(pcow::Result<T> result) {
    if (!result) die(shared_, result.error().message.c_str());
    if constexpr (!std::is_void_v<T>) return *std::move(result);
  }

  // Again as soon as one is answered, so that checkpoints stay unfinished.
  void flush_in_a_row(int left) {
    manager_->flush([this, left](const pcow::Result<pcow::Epoch>& result) {
      if (!result) return;
      shared_.counters.flushes.fetch_add(1, std::memory_order_relaxed);
      if (left > 0) flush_in_a_row(left - 1);
    });
  }

  // A policy chooses what is cold, and seldom what is stored to right then; without one anything
  // leaves; and chunks become huge where there is DRAM for all of them. So each has its turn, and a
  // life begins with any of them.
  void change_policy() {
    struct Turn {
      tiering::PolicyKind kind;
      uint64_t dram_size;
    };
    constexpr std::array kTurns = {Turn{tiering::PolicyKind::kOff, kDramSize},
                                   Turn{tiering::PolicyKind::kAge, kPolicyDramSize},
                                   Turn{tiering::PolicyKind::kStatic, kRegionSize},
                                   Turn{tiering::PolicyKind::kOff, kDramSize},
                                   Turn{tiering::PolicyKind::kHeat, kPolicyDramSize}};
    const Turn& turn = kTurns.at(policy_++ % kTurns.size());
    has_room_ = turn.dram_size == kRegionSize;
    take(migration_->set_parameters({.kind = turn.kind,
                                     .dram_size = turn.dram_size,
                                     .high_percent = has_room_ ? 100U : 80U,
                                     .low_percent = 50,
                                     .migrate_rate = 64 * pcow::kGiB}));
    take(migration_->explain({pcow::PageIndex(0), kPages}));
  }

  // Whatever the maker of epochs is at, or the guest does with these pages. Whole chunks where
  // there is room, or none would become huge.
  void promote_any() {
    const uint64_t count = has_room_ ? pcow::kPagesPerChunk : kPagesPerPromotion;
    const pcow::PageIndex first(queries_ * 977 % kPages / count * count);
    shared_.counters.promoted.fetch_add(take(guarded_->with([&](tiering::Region& region) {
      return region.promote({first, count});
    })));
  }

  void discard(uint64_t page, uint64_t count) {
    const uint64_t offset = page * pcow::kPageSize;
    const uint64_t length = count * pcow::kPageSize;
    if (active_break == Break::kDiscardLocally) {
      madvise(region_->base() + offset, length, MADV_DONTNEED);
      return;
    }
    take(guarded_->with([&](tiering::Region& region) { return region.discard(offset, length); }));
  }

  // One more, and then none but the newest. What cannot be done now is done later: another deletion
  // is under way.
  void change_snapshots() {
    const std::string name = session_ + "-" + std::to_string(queries_);
    manager_->create_snapshot(name, [this](const pcow::Result<void>& done) {
      if (done) shared_.counters.snapshots.fetch_add(1, std::memory_order_relaxed);
      if (!done && done.error().code != pcow::Code::kInvalid) take(done);
    });
    const auto all =
        take(guarded_->with([](tiering::Region& region) { return region.snapshots(); }));
    if (all.size() < kSnapshotsKept) return;
    manager_->delete_snapshot(all.front().name, [this](const pcow::Result<void>& done) {
      if (done) shared_.counters.deletions.fetch_add(1, std::memory_order_relaxed);
      const bool passes = !done && (done.error().code == pcow::Code::kInvalid ||
                                    done.error().code == pcow::Code::kBusy);
      if (!passes) take(done);
    });
  }

  void check_all() {
    for (uint64_t page = 1; page < kPages; ++page) {
      for (uint64_t index = 0; index < kPlacesPerPage; ++index) {
        const Place place{page, index};
        const bool device = owner_of(place) == kDeviceOwner;
        const uint64_t expected = value_of(
            place, device ? shared_.device_done[page].load() : shared_.live[place.number()]);
        const uint64_t found = guest_load(region_->base() + place.offset());
        if (found != expected) report_violation(shared_, place, "a quiet look", expected, found);
      }
    }
  }

  // Adds what is new since the last time, for sessions before this one have counted too.
  void publish() {
    const tiering::EpochStatistics now = manager_->statistics();
    Counters& to = shared_.counters;
    to.epochs += now.epochs - published_.epochs;
    to.rounds += now.precopy_rounds - published_.precopy_rounds;
    to.precopied += now.precopied_pages - published_.precopied_pages;
    to.residue += now.residue_pages - published_.residue_pages;
    to.pinned += now.pinned_pages - published_.pinned_pages;
    to.demoted += now.demoted_pages - published_.demoted_pages;
    to.kept += now.kept_pages - published_.kept_pages;
    to.logged_bytes += now.logged_bytes - published_.logged_bytes;
    to.checkpointed += now.checkpointed_pages - published_.checkpointed_pages;
    to.early += now.early_epochs - published_.early_epochs;
    to.holds += now.holds - published_.holds;
    to.restarts += now.restarts - published_.restarts;
    const tiering::MigrationStatistics moves = migration_->statistics();
    to.promoted += moves.promoted_pages - published_moves_.promoted_pages;
    const uint64_t folded = image_->folded_pages;
    to.folded += folded - std::exchange(published_folded_, folded);
    to.unmapped += moves.unmapped_pages - published_moves_.unmapped_pages;
    to.huge += moves.huge_chunks - published_moves_.huge_chunks;
    published_moves_ = moves;
    to.pause_p50_ns = now.pause_ns.quantile(0.5);
    to.pause_p99_ns = now.pause_ns.quantile(0.99);
    if (now.pause_ns.max() > to.pause_max_ns) to.pause_max_ns = now.pause_ns.max();
    published_ = now;
  }

  SharedState& shared_;
  uint64_t queries_ = 0;
  uint64_t policy_ = 0;
  bool has_room_ = false;
  std::string session_;
  std::unique_ptr<pcow::Image> opened_;
  std::unique_ptr<ForgetfulImage> image_;
  std::unique_ptr<tiering::Region> region_;
  std::unique_ptr<tiering::GuardedRegion> guarded_;
  std::unique_ptr<tiering::Migration> migration_;
  std::unique_ptr<tiering::EpochManager> manager_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Guest> guest_;
  tiering::EpochStatistics published_;
  tiering::MigrationStatistics published_moves_;
  uint64_t published_folded_ = 0;
};

}  // namespace

void run_session(const std::string& path, SharedState& shared, uint64_t seed, bool with_device) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  {
    Session session(path, shared);
    session.run(seed, with_device);
  }
  _exit(0);
}

}  // namespace torture
