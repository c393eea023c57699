// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary: checks options, owns the image, translates errors, keeps exceptions in.
#include <tiering/region.h>
#include <tiering/tiering.h>
#include <algorithm>
#include <array>
#include <chrono>
#include <climits>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "tiering/image_source.h"
#include "tiering/log.h"

struct tiering_region {
  std::unique_ptr<pcow::Image> image;  // null after shutdown
  std::unique_ptr<tiering::Region> region;
  pcow::ImageInfo info;  // as of shutdown
  uint64_t dram_size = 0;
  uint64_t commits = 0;
  uint64_t written_pages = 0;
  uint64_t demoted_pages = 0;
  uint64_t last_pause_ns = 0;
};

namespace {

using pcow::Code;
using pcow::Error;
using pcow::make_error;
using pcow::Result;
using tiering::log;

int c_code(Code code) {
  switch (code) {
    case Code::kInvalid:
      return TIERING_E_INVALID;
    case Code::kNotFound:
      return TIERING_E_NOT_FOUND;
    case Code::kPermission:
      return TIERING_E_PERMISSION;
    case Code::kBusy:
      return TIERING_E_BUSY;
    case Code::kNoSpace:
      return TIERING_E_NO_SPACE;
    case Code::kIo:
      return TIERING_E_IO;
    case Code::kCorrupt:
      return TIERING_E_CORRUPT;
    case Code::kForeign:
      return TIERING_E_FOREIGN;
    case Code::kUnsupported:
      return TIERING_E_UNSUPPORTED;
    case Code::kExists:
      return TIERING_E_EXISTS;
    case Code::kNeedsRecovery:
      return TIERING_E_NEEDS_RECOVERY;
    case Code::kNoMemory:
      return TIERING_E_NO_MEMORY;
    case Code::kLogFull:  // no region logs epochs yet
    case Code::kInternal:
      break;
  }
  return TIERING_E_INTERNAL;
}

// Copies text into a fixed buffer, cut if need be, always terminated.
template <size_t N>
void copy_text(char (&out)[N], std::string_view text) {
  const size_t length = std::min(text.size(), N - 1);
  std::memcpy(out, text.data(), length);
  out[length] = '\0';
}

int fail(tiering_error* err, Code code, int sys_errno, std::string_view message) {
  if (err != nullptr) {
    err->code = c_code(code);
    err->sys_errno = sys_errno;
    copy_text(err->message, message);
  }
  return c_code(code);
}

// Runs `body`, a Result<void> without exceptions beyond this point.
template <typename Body>
int guarded(tiering_error* err, const Body& body) noexcept {
  try {
    const Result<void> result = body();
    if (result) return TIERING_OK;
    return fail(err, result.error().code, result.error().sys_errno, result.error().message);
  } catch (const std::bad_alloc&) {
    return fail(err, Code::kNoMemory, 0, "out of memory");
  } catch (const std::exception& exception) {
    return fail(err, Code::kInternal, 0, exception.what());
  } catch (...) {
    return fail(err, Code::kInternal, 0, "unknown exception");
  }
}

// A structure of the caller, who may have been built against another version of the header: what
// both know is copied, nothing beyond struct_size is touched.
template <typename T>
Result<T> import_struct(const T* from, const char* name) {
  T copy{};
  if (from == nullptr || from->struct_size < sizeof(T::struct_size)) {
    return make_error(Code::kInvalid, std::string(name) + ": struct_size is not set");
  }
  std::memcpy(&copy, from, std::min<size_t>(from->struct_size, sizeof(T)));
  return copy;
}

template <typename T>
Result<void> export_struct(T& values, T* to, const char* name) {
  if (to == nullptr || to->struct_size < sizeof(T::struct_size)) {
    return make_error(Code::kInvalid, std::string(name) + ": struct_size is not set");
  }
  values.struct_size = to->struct_size;
  std::memcpy(to, &values, std::min<size_t>(to->struct_size, sizeof(T)));
  return {};
}

Result<void> check_modes(const tiering_options& options) {
  constexpr std::array kPersistence = {"volatile", "epoch", "direct"};
  constexpr std::array kPolicies = {"off", "static", "age", "heat", "cmq"};
  const auto persistence = static_cast<size_t>(options.persistence);
  const auto policy = static_cast<size_t>(options.policy);
  if (persistence >= kPersistence.size()) {
    return make_error(Code::kInvalid, "persistence=" + std::to_string(persistence) +
                                          " is unknown: use persistence=volatile");
  }
  if (persistence != TIERING_PERSISTENCE_VOLATILE) {
    return make_error(Code::kUnsupported, std::string("persistence=") +
                                              kPersistence.at(persistence) +
                                              " is not supported yet: use persistence=volatile");
  }
  if (policy >= kPolicies.size()) {
    return make_error(Code::kInvalid,
                      "tier-policy=" + std::to_string(policy) + " is unknown: use tier-policy=off");
  }
  if (policy != TIERING_POLICY_OFF) {
    return make_error(Code::kUnsupported, std::string("tier-policy=") + kPolicies.at(policy) +
                                              " is not supported yet: use tier-policy=off");
  }
  return {};
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

Result<std::unique_ptr<pcow::Image>> open_image(const tiering_options& options) {
  pcow::OpenOptions how{.access = pcow::Access::kReadWrite, .virtual_size = options.size_bytes};
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
  handle->dram_size = mapped.dram_size != 0 ? mapped.dram_size : options.size_bytes;
  handle->image = std::move(image);
  handle->region = *std::move(region);
  return handle;
}

Result<tiering::CommitReport> timed_commit(tiering_region& region, bool may_demote) {
  if (!region.image) return make_error(Code::kInvalid, "the region was shut down");
  const auto start = std::chrono::steady_clock::now();
  auto report = region.region->commit(may_demote);
  const auto pause = std::chrono::steady_clock::now() - start;
  region.last_pause_ns =
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(pause).count());
  if (!report) return report;
  ++region.commits;
  region.written_pages += report->written_pages;
  region.demoted_pages += report->demoted_pages;
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
  to.mappings = from.mappings;
  to.mapping_budget = from.mapping_budget;
  to.committed_epoch = info.committed_epoch.value;
  to.commits = region.commits;
  to.written_bytes = region.written_pages * pcow::kPageSize;
  to.demoted_pages = region.demoted_pages;
  to.last_pause_ns = region.last_pause_ns;
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
  return guarded(err, [&] { return region->region->apply_attributes(); });
}

int tiering_region_commit(tiering_region* region, bool may_demote,
                          struct tiering_commit_report* report, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
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

int tiering_region_status(tiering_region* region, struct tiering_status* status,
                          struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(const tiering::RegionStatus now, region->region->status());
    tiering_status values{};
    fill_status(*region, now, region->image ? region->image->info() : region->info, values);
    return export_struct(values, status, "tiering_status");
  });
}

int tiering_region_shutdown(tiering_region* region, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    if (!region->image) return {};
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
