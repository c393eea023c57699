// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary of epochs: a host that is two functions of the hypervisor, and the manager's life.
#include <chrono>
#include <utility>

#include "tiering/c_api_impl.h"
#include "tiering/log.h"

namespace {

using std::chrono::milliseconds;
using tiering::c_api::answer_to;
using tiering::c_api::c_code;
using tiering::c_api::export_struct;
using tiering::c_api::guarded;
using tiering::c_api::import_struct;
using tiering::c_api::make_error;
using tiering::c_api::Result;

constexpr uint64_t kMaxMs = 24ULL * 3600 * 1000;

double to_ms(std::chrono::nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

class CallbackHost final : public tiering::EpochHost {
 public:
  CallbackHost(const tiering_epoch_options& options, std::string path)
      : options_(options), path_(std::move(path)) {}

  bool while_quiet(const std::function<void()>& body) override {
    const auto call = [](void* argument) {
      (*static_cast<const std::function<void()>*>(argument))();
    };
    return options_.while_quiet(options_.opaque, call,
                                const_cast<void*>(static_cast<const void*>(&body)));
  }
  void epoch_failed(const pcow::Error& error, bool ended) override {
    options_.epoch_failed(options_.opaque, c_code(error.code), error.message.c_str(), ended);
  }
  void epochs_recovered() override {
    tiering::log().info("'{}': epochs are made again", path_);
    if (options_.epochs_recovered != nullptr) options_.epochs_recovered(options_.opaque);
  }
  void log_grown(uint64_t size, bool at_barrier) override {
    if (!at_barrier) {
      tiering::log().info("'{}': its log has {} now, because an epoch had to end early", path_,
                          pcow::format_size(size));
      return;
    }
    tiering::log().warn(
        "'{}': its guest changed more than the log takes before it was at rest; the log has {} now",
        path_, pcow::format_size(size));
  }
  void epoch_made(const tiering::EpochReport& report) override {
    tiering::log().debug("'{}': epoch {}: {} pages in a pause of {:.3f} ms; the next in {} ms",
                         path_, report.epoch.value, report.residue_pages, to_ms(report.pause),
                         std::chrono::duration_cast<milliseconds>(report.interval).count());
  }
  void guest_held(std::chrono::nanoseconds time) override {
    tiering::log().info("'{}': held its guest for {:.1f} ms: it stores faster than the log takes",
                        path_, to_ms(time));
  }

 private:
  const tiering_epoch_options options_;
  const std::string path_;
};

Result<tiering::EpochOptions> epoch_options(const tiering_epoch_options& from) {
  if (from.while_quiet == nullptr || from.epoch_failed == nullptr) {
    return make_error(pcow::Code::kInvalid, "tiering_epoch_options: a function is missing");
  }
  if (from.min_ms > kMaxMs || from.max_ms > kMaxMs) {
    return make_error(pcow::Code::kInvalid, "epochs of more than a day are not possible");
  }
  tiering::EpochOptions options;
  if (from.min_ms != 0) options.interval.min = milliseconds(from.min_ms);
  if (from.max_ms != 0) options.interval.max = milliseconds(from.max_ms);
  if (from.overhead_permille != 0) options.interval.overhead = from.overhead_permille / 1000.0;
  PCOW_TRY(tiering::EpochInterval::check(options.interval));
  return options;
}

Result<tiering::EpochManager*> manager_of(tiering_region* region) {
  if (region->manager) return region->manager.get();
  return make_error(pcow::Code::kInvalid, "the region has no epochs: it was opened volatile");
}

void fill(const tiering::EpochStatistics& from, tiering_epoch_status& to) {
  to.epochs = from.epochs;
  to.early_epochs = from.early_epochs;
  to.failed_epochs = from.failed_epochs;
  to.precopied_pages = from.precopied_pages;
  to.residue_pages = from.residue_pages;
  to.pinned_pages = from.pinned_pages;
  to.logged_bytes = from.logged_bytes;
  to.checkpointed_pages = from.checkpointed_pages;
  to.demoted_pages = from.demoted_pages;
  to.flushes = from.flushes;
  to.interval_ns = static_cast<uint64_t>(from.interval.count());
  to.pause_p50_ns = from.pause_ns.quantile(0.5);
  to.pause_p99_ns = from.pause_ns.quantile(0.99);
  to.pause_max_ns = from.pause_ns.max();
  to.holds = from.holds;
  to.held_ns = static_cast<uint64_t>(from.held.count());
  to.restarts = from.restarts;
  to.pause_sum_ns = from.pause_ns.sum();
}

}  // namespace

namespace tiering::c_api {

std::function<void(const Result<void>&)> answer_to(tiering_done* done, void* opaque) {
  return [=](const Result<void>& result) {
    done(opaque, result ? TIERING_OK : c_code(result.error().code),
         result ? "" : result.error().message.c_str());
  };
}

Result<void> check_epoch_options(const tiering_options& options) {
  if (options.persistence != TIERING_PERSISTENCE_EPOCH) return {};
  if (options.epoch == nullptr) {
    return make_error(pcow::Code::kUnsupported,
                      "persistence=epoch is not supported yet by this hypervisor: use "
                      "persistence=volatile");
  }
  PCOW_TRY_ASSIGN(const tiering_epoch_options epoch,
                  import_struct(options.epoch, "tiering_epoch_options"));
  PCOW_TRY(epoch_options(epoch));
  return {};
}

Result<void> add_epochs(const tiering_options& options, tiering_region& region) {
  if (options.persistence != TIERING_PERSISTENCE_EPOCH) return {};
  PCOW_TRY_ASSIGN(const tiering_epoch_options epoch,
                  import_struct(options.epoch, "tiering_epoch_options"));
  PCOW_TRY_ASSIGN(const EpochOptions checked, epoch_options(epoch));
  region.host = std::make_unique<CallbackHost>(epoch, region.path);
  region.manager =
      std::make_unique<EpochManager>(*region.shared, *region.host, checked, region.migration.get());
  return {};
}

}  // namespace tiering::c_api

extern "C" {

int tiering_epoch_start(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    if (!region->image) return make_error(pcow::Code::kInvalid, "the region was shut down");
    return manager->start();
  });
}

int tiering_epoch_stop(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    manager->stop();
    return {};
  });
}

int tiering_region_flush(tiering_region* region, bool wait_when_full,
                         void (*done)(void* opaque, int code, const char* message), void* opaque,
                         struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    const auto answer = [=](const Result<pcow::Epoch>& result) {
      done(opaque, result ? TIERING_OK : c_code(result.error().code),
           result ? "" : result.error().message.c_str());
    };
    using WhenFull = tiering::EpochManager::WhenFull;
    manager->flush(answer, wait_when_full ? WhenFull::kWait : WhenFull::kFail);
    return {};
  });
}

int tiering_epoch_hold(tiering_region* region, tiering_done* held, void* opaque,
                       struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    manager->hold(answer_to(held, opaque));
    return {};
  });
}

int tiering_epoch_barrier(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    return manager->barrier_held();
  });
}

int tiering_epoch_release(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    manager->release();
    return {};
  });
}

int tiering_epoch_get_status(tiering_region* region, struct tiering_epoch_status* status,
                             struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    tiering_epoch_status values{};
    fill(manager->statistics(), values);
    return export_struct(values, status, "tiering_epoch_status");
  });
}

int tiering_epoch_get_pauses(tiering_region* region,
                             void (*each)(void* opaque, uint64_t up_to_ns, uint64_t count),
                             void* opaque, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(tiering::EpochManager * manager, manager_of(region));
    manager->statistics().pause_ns.for_each(
        [&](uint64_t up_to_ns, uint64_t count) { each(opaque, up_to_ns, count); });
    return {};
  });
}

int tiering_region_pin(tiering_region* region, uint64_t offset, uint64_t length,
                       struct tiering_error* err) {
  return guarded(err, [&] { return region->region->pin(offset, length); });
}

int tiering_region_unpin(tiering_region* region, uint64_t offset, uint64_t length,
                         struct tiering_error* err) {
  return guarded(err, [&] { return region->region->unpin(offset, length); });
}

}  // extern "C"
