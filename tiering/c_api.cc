// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary: checks options, owns the image. Epochs: c_api_epoch.cc.
#include <array>
#include <chrono>
#include <climits>
#include <utility>

#include "tiering/c_api_impl.h"
#include "tiering/image_source.h"
#include "tiering/log.h"

namespace {

using pcow::Code;
using pcow::Error;
using pcow::make_error;
using pcow::Result;
using tiering::log;
using tiering::c_api::copy_text;
using tiering::c_api::export_struct;
using tiering::c_api::guarded;
using tiering::c_api::import_struct;

Result<void> check_modes(const tiering_options& options) {
  constexpr std::array kPersistence = {"volatile", "epoch", "direct"};
  const auto persistence = static_cast<size_t>(options.persistence);
  if (persistence >= kPersistence.size()) {
    return make_error(Code::kInvalid, "persistence=" + std::to_string(persistence) +
                                          " is unknown: use persistence=volatile");
  }
  if (persistence == TIERING_PERSISTENCE_DIRECT) {
    return make_error(Code::kUnsupported, std::string("persistence=") +
                                              kPersistence.at(persistence) +
                                              " is not supported yet: use persistence=volatile");
  }
  PCOW_TRY(tiering::c_api::check_epoch_options(options));
  return tiering::c_api::check_policy(options.policy, options.persistence);
}

Result<numa::Placement> placement_of(const tiering_options& options) {
  numa::Placement placement;
  switch (options.numa_policy) {
    case TIERING_NUMA_DEFAULT:
      placement.policy = numa::Policy::kDefault;
      break;
    case TIERING_NUMA_PREFERRED:
      placement.policy = numa::Policy::kPreferred;
      break;
    case TIERING_NUMA_BIND:
      placement.policy = numa::Policy::kBind;
      break;
    case TIERING_NUMA_INTERLEAVE:
      placement.policy = numa::Policy::kInterleave;
      break;
    default:
      return make_error(Code::kInvalid,
                        "policy=" + std::to_string(static_cast<int>(options.numa_policy)) +
                            " is unknown: use policy=default, preferred, bind or interleave");
  }
  if (options.host_nodes == nullptr) return placement;
  constexpr unsigned long kWordBits = sizeof(unsigned long) * CHAR_BIT;
  for (unsigned long node = 0; node < options.max_host_node; ++node) {
    if ((options.host_nodes[node / kWordBits] >> (node % kWordBits) & 1) != 0) {
      placement.nodes.push_back(static_cast<unsigned>(node));
    }
  }
  return placement;
}

Result<tiering::RegionOptions> region_options(const tiering_options& options) {
  PCOW_TRY(check_modes(options));
  tiering::RegionOptions result;
  result.dump = options.dump;
  if (options.persistence == TIERING_PERSISTENCE_EPOCH) {
    result.persistence = tiering::Persistence::kEpoch;
  }
  if (options.mapping_budget != 0) result.mapping_budget = options.mapping_budget;
  const uint64_t dram = options.dram_size_bytes;
  if (dram % pcow::kPageSize != 0) {
    return make_error(Code::kInvalid,
                      "dram-size=" + std::to_string(dram) + " is not a multiple of 4096 bytes");
  }
  if (dram > options.size_bytes) {
    return make_error(Code::kInvalid,
                      "dram-size=" + std::to_string(dram) +
                          " is larger than size=" + std::to_string(options.size_bytes) +
                          "; leave it out to keep everything in DRAM");
  }
  result.dram_size = dram == options.size_bytes ? 0 : dram;
  PCOW_TRY_ASSIGN(result.placement, placement_of(options));
  return result;
}

void log_open(const pcow::ImageInfo& info) {
  for (const std::string& warning : info.warnings) log().warn("{}", warning);
  if (info.recovered) {
    log().warn("'{}' was not closed cleanly; recovered, its content is that of epoch {}", info.path,
               info.committed_epoch.value);
  }
}

// What commits and checkpoints of some seconds take, where space ahead of need pays at all; given
// back when the region is shut down.
constexpr uint64_t kReserveAhead = 64 * pcow::kMiB;

Result<std::unique_ptr<pcow::Image>> open_image(const tiering_options& options) {
  pcow::OpenOptions how{.access = pcow::Access::kReadWrite,
                        .virtual_size = options.size_bytes,
                        .reserve_ahead = kReserveAhead};
  if (options.allow_base) how.base = pcow::BaseAccess::kFollow;
  auto image = tiering::open_image(options.image_path, how);
  // Not what the file system did not permit.
  if (!image && image.error().code == Code::kPermission && image.error().sys_errno == 0) {
    Error error = std::move(image).error();
    error.message +=
        "; allow-base=on reads it, if you know where the image comes from: it could name any file";
    return error;
  }
  return image;
}

Result<std::unique_ptr<tiering_region>> open_region(const tiering_options* given) {
  PCOW_TRY_ASSIGN(const tiering_options options, import_struct(given, "tiering_options"));
  if (options.image_path == nullptr || *options.image_path == '\0') {
    return make_error(Code::kInvalid, "mem-path is missing: name a pcow image");
  }
  PCOW_TRY_ASSIGN(const tiering::RegionOptions mapped, region_options(options));
  const std::string path = options.image_path;
  PCOW_TRY_ASSIGN(auto image, open_image(options));
  auto region = tiering::Region::map(*image, mapped);
  if (!region) {
    Error error = std::move(region).error();
    error.message = "cannot map '" + path + "': " + error.message;
    return error;
  }
  log_open(image->info());
  auto handle = std::make_unique<tiering_region>();
  handle->path = path;
  handle->dram_size = mapped.dram_size != 0 ? mapped.dram_size : options.size_bytes;
  handle->image = std::move(image);
  handle->region = *std::move(region);
  handle->shared = std::make_unique<tiering::GuardedRegion>(*handle->region);
  PCOW_TRY(tiering::c_api::add_policy(options, *handle));
  PCOW_TRY(tiering::c_api::add_epochs(options, *handle));
  return handle;
}

Result<tiering::CommitReport> timed_commit(tiering_region& region, bool may_demote) {
  if (!region.image) return make_error(Code::kInvalid, "the region was shut down");
  const auto start = std::chrono::steady_clock::now();
  auto report = region.shared->with([&](tiering::Region& r) { return r.commit(may_demote); });
  const auto pause = std::chrono::steady_clock::now() - start;
  region.last_pause_ns =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(pause).count());
  if (!report) return report;
  ++region.commits;
  region.written_pages += report->written_pages;
  region.demoted_pages += report->demoted_pages;
  region.changed_pages += report->scanned_pages;
  return report;
}

void fill_status(const tiering_region& region, const tiering::RegionStatus& from,
                 const pcow::ImageInfo& info, tiering_status& to) {
  copy_text(to.image_path, info.path);
  copy_text(to.image_uuid, info.uuid);
  copy_text(to.medium, pcow::granularity_name(info.granularity));
  copy_text(to.tracker, tiering::tracker_name(from.tracker));
  to.size_bytes = region.region->size();
  to.dram_size_bytes = region.dram_size;
  to.dram_resident_bytes = from.dram_resident_bytes;
  to.dirty_bytes = from.dirty_bytes;
  to.allocated_bytes = info.allocated_bytes;
  to.disk_bytes = info.disk_bytes;
  to.hole_chunks = from.hole_chunks;
  to.cached_chunks = from.cached_chunks;
  to.huge_chunks = from.huge_chunks;
  to.mappings = from.mappings;
  to.mapping_budget = from.mapping_budget;
  to.committed_epoch = info.committed_epoch.value;
  to.commits = region.commits;
  to.written_bytes = region.written_pages * pcow::kPageSize;
  to.demoted_pages = region.demoted_pages;
  to.last_pause_ns = region.last_pause_ns;
  to.stored_log_bytes = info.stored.log;
  to.stored_checkpoint_bytes = info.stored.checkpoint;
  to.stored_pages_bytes = info.stored.pages;
  to.stored_copies_bytes = info.stored.copies;
  to.stored_metadata_bytes = info.stored.metadata;
}

uint64_t changed_pages(const tiering_region& region) {
  if (!region.manager) return region.changed_pages;
  const tiering::EpochStatistics now = region.manager->statistics();
  return region.changed_pages + now.precopied_pages + now.residue_pages;
}

}  // namespace

extern "C" {

int tiering_region_open(const struct tiering_options* options, tiering_region** out,
                        struct tiering_error* err) {
  *out = nullptr;
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(auto region, open_region(options));
    *out = region.release();
    return {};
  });
}

void* tiering_region_base(const tiering_region* region) { return region->region->base(); }

uint64_t tiering_region_size(const tiering_region* region) { return region->region->size(); }

int tiering_region_apply_attributes(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&] {
    return region->shared->with([](tiering::Region& shared) { return shared.apply_attributes(); });
  });
}

int tiering_region_commit(tiering_region* region, bool may_demote,
                          struct tiering_commit_report* report, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    if (region->manager && region->manager->running()) {
      return make_error(Code::kInvalid,
                        "the region makes epochs by itself: flush it to have one made now");
    }
    PCOW_TRY_ASSIGN(const tiering::CommitReport done, timed_commit(*region, may_demote));
    if (report == nullptr) return {};
    tiering_commit_report values{};
    values.epoch = done.epoch.value;
    values.scanned_pages = done.scanned_pages;
    values.written_pages = done.written_pages;
    values.zero_pages = done.zero_pages;
    values.demoted_pages = done.demoted_pages;
    values.pause_ns = region->last_pause_ns;
    return export_struct(values, report, "tiering_commit_report");
  });
}

int tiering_region_discard(tiering_region* region, uint64_t offset, uint64_t length,
                           struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    if (!region->image) return make_error(Code::kInvalid, "the region was shut down");
    return region->shared->with([&](tiering::Region& r) { return r.discard(offset, length); });
  });
}

int tiering_region_status(tiering_region* region, struct tiering_status* status,
                          struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    tiering_status values{};
    values.changed_bytes = changed_pages(*region) * pcow::kPageSize;
    PCOW_TRY(region->shared->with([&](tiering::Region& shared) -> Result<void> {
      PCOW_TRY_ASSIGN(const tiering::RegionStatus now, shared.status());
      fill_status(*region, now, region->image ? region->image->info() : region->info, values);
      return {};
    }));
    return export_struct(values, status, "tiering_status");
  });
}

int tiering_region_shutdown(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    if (!region->image) return {};
    if (region->manager) region->manager->stop();
    PCOW_TRY(timed_commit(*region, false));
    PCOW_TRY(region->region->reclaim());
    pcow::ImageInfo info = region->image->info();
    PCOW_TRY(region->image->close());
    region->info = std::move(info);
    region->info.clean = true;
    // The region keeps the mappings; from here on it must not be asked to commit.
    region->image.reset();
    return {};
  });
}

void tiering_region_free(tiering_region* region) { delete region; }

const char* tiering_version(void) { return "1.0.0 (pcow format 1)"; }

}  // extern "C"
