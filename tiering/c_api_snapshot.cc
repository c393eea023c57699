// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary of snapshots: by the thread that makes epochs, where there is one, else by the
// caller's.
#include "tiering/c_api_impl.h"
#include "tiering/log.h"

namespace {

using pcow::Code;
using tiering::c_api::answer_to;
using tiering::c_api::copy_text;
using tiering::c_api::export_struct;
using tiering::c_api::guarded;
using tiering::c_api::make_error;
using tiering::c_api::Result;

constexpr uint64_t kPagesPerStep = 256;

Result<void> check_open(const tiering_region* region) {
  if (region->image) return {};
  return make_error(Code::kInvalid, "the region was shut down");
}

Result<std::string> name_from(const char* name) {
  if (name == nullptr) return make_error(Code::kInvalid, "the name of the snapshot is missing");
  return std::string(name);
}

tiering_snapshot exported(const pcow::SnapshotInfo& from) {
  tiering_snapshot to{};
  to.struct_size = sizeof(to);
  copy_text(to.name, from.name);
  to.id = from.id.value;
  to.parent = from.parent ? from.parent->value : 0;
  to.created_ns = from.created_ns;
  to.epoch = from.epoch.value;
  to.size_bytes = from.virtual_size;
  to.allocated_bytes = from.allocated_bytes;
  return to;
}

std::function<void(const Result<void>&)> logged_answer(const tiering_region& region,
                                                       const std::string& name, const char* what,
                                                       tiering_done* done, void* opaque) {
  return [=, path = region.path, answer = answer_to(done, opaque)](const Result<void>& result) {
    if (result) {
      tiering::log_if_possible(
          [&](spdlog::logger& log) { log.info("'{}': snapshot '{}' {}", path, name, what); });
    }
    answer(result);
  };
}

}  // namespace

extern "C" {

int tiering_snapshot_create(tiering_region* region, const char* name, tiering_done* done,
                            void* opaque, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY(check_open(region));
    PCOW_TRY_ASSIGN(const std::string checked, name_from(name));
    const auto answer = logged_answer(*region, checked, "created", done, opaque);
    if (region->manager) {
      region->manager->create_snapshot(checked, answer);
      return {};
    }
    PCOW_TRY(region->shared->with(
        [&](tiering::Region& shared) { return shared.create_snapshot(checked); }));
    answer({});
    return {};
  });
}

int tiering_snapshot_list(tiering_region* region,
                          void (*each)(void* opaque, const struct tiering_snapshot* snapshot),
                          void* opaque, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY(check_open(region));
    PCOW_TRY_ASSIGN(const auto snapshots, region->shared->with([](tiering::Region& shared) {
      return shared.snapshots();
    }));
    for (const pcow::SnapshotInfo& snapshot : snapshots) {
      const tiering_snapshot values = exported(snapshot);
      each(opaque, &values);
    }
    return {};
  });
}

int tiering_snapshot_delete(tiering_region* region, const char* name, tiering_done* done,
                            void* opaque, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY(check_open(region));
    PCOW_TRY_ASSIGN(const std::string checked, name_from(name));
    const auto answer = logged_answer(*region, checked, "deleted", done, opaque);
    if (region->manager) {
      region->manager->delete_snapshot(checked, answer);
      return {};
    }
    PCOW_TRY(region->shared->with(
        [&](tiering::Region& shared) { return shared.begin_deletion(checked); }));
    answer({});
    return {};
  });
}

int tiering_deletion_step(tiering_region* region, bool* more, struct tiering_error* err) {
  *more = false;
  return guarded(err, [&]() -> Result<void> {
    if (!region->image || region->manager) return {};
    const Result<pcow::DeletionReport> report = region->shared->with(
        [](tiering::Region& shared) { return shared.continue_deletion(kPagesPerStep); });
    region->deletion_error = report ? "" : report.error().message;
    PCOW_TRY(report);
    *more = !report->done && !report->waits;
    return {};
  });
}

int tiering_deletion_get_status(tiering_region* region, struct tiering_deletion_status* status,
                                struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    tiering_deletion_status values{};
    const pcow::ImageInfo info = region->shared->with(
        [&](tiering::Region&) { return region->image ? region->image->info() : region->info; });
    values.pending = info.deleting;
    copy_text(values.message, region->deletion_error);
    if (region->manager) {
      const std::optional<pcow::Error> error = region->manager->deletion_error();
      copy_text(values.message, error ? error->message : "");
    }
    return export_struct(values, status, "tiering_deletion_status");
  });
}

}  // extern "C"
