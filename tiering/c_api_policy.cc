// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary of tiering policies.
#include <array>

#include "tiering/c_api_impl.h"
#include "tiering/log.h"

namespace {

using pcow::Code;
using tiering::PolicyKind;
using tiering::Refusal;
using tiering::c_api::copy_text;
using tiering::c_api::export_struct;
using tiering::c_api::guarded;
using tiering::c_api::import_struct;
using tiering::c_api::make_error;
using tiering::c_api::Result;

static_assert(static_cast<int>(PolicyKind::kOff) == TIERING_POLICY_OFF);
static_assert(static_cast<int>(PolicyKind::kStatic) == TIERING_POLICY_STATIC);
static_assert(static_cast<int>(PolicyKind::kAge) == TIERING_POLICY_AGE);
static_assert(static_cast<int>(PolicyKind::kHeat) == TIERING_POLICY_HEAT);
static_assert(static_cast<int>(PolicyKind::kCmq) == TIERING_POLICY_CMQ);
static_assert(static_cast<int>(tiering::PagePlace::kHole) == TIERING_PLACE_HOLE);
static_assert(static_cast<int>(tiering::PagePlace::kImage) == TIERING_PLACE_IMAGE);
static_assert(static_cast<int>(tiering::PagePlace::kDram) == TIERING_PLACE_DRAM);

#ifdef PCOW_LIBTIERING_ONETBB
constexpr tiering::Parallel kParallel = tiering::on_onetbb;
#else
constexpr tiering::Parallel kParallel = tiering::on_this_thread;
#endif

tiering_persistence persistence_of(const tiering_region& region) {
  return region.migration ? TIERING_PERSISTENCE_EPOCH : TIERING_PERSISTENCE_VOLATILE;
}

// No limit is the same as all of the region.
uint64_t limit_of(uint64_t dram_size, uint64_t region_bytes) {
  return dram_size == region_bytes ? 0 : dram_size;
}

tiering::PolicyParameters parameters_of(const tiering_policy_options& options,
                                        uint64_t region_bytes) {
  tiering::PolicyParameters parameters;
  parameters.kind = static_cast<PolicyKind>(options.policy);
  parameters.dram_size = limit_of(options.dram_size_bytes, region_bytes);
  if (options.high_percent != 0) parameters.high_percent = options.high_percent;
  if (options.low_percent != 0) parameters.low_percent = options.low_percent;
  if (options.migrate_rate != 0) parameters.migrate_rate = options.migrate_rate;
  return parameters;
}

// Without epochs only the limit can be changed, and what goes with it is what there is by default.
Result<void> set_limit(tiering_region& region, const tiering::PolicyParameters& parameters) {
  PCOW_TRY(check_parameters(parameters, region.region->size()));
  const tiering::PolicyParameters defaults{.dram_size = parameters.dram_size};
  if (parameters != defaults) {
    return make_error(Code::kUnsupported,
                      "watermarks and a migration rate need persistence=epoch: a volatile region "
                      "moves pages at commits only");
  }
  region.shared->with([&](tiering::Region& shared) { shared.set_dram_size(parameters.dram_size); });
  return {};
}

Result<void> set_policy(tiering_region& region, const tiering_policy_options* given) {
  PCOW_TRY_ASSIGN(const tiering_policy_options options,
                  import_struct(given, "tiering_policy_options"));
  PCOW_TRY(tiering::c_api::check_policy(options.policy, persistence_of(region)));
  const uint64_t size = region.region->size();
  const tiering::PolicyParameters parameters = parameters_of(options, size);
  if (region.migration) {
    PCOW_TRY(region.migration->set_parameters(parameters));
  } else {
    PCOW_TRY(set_limit(region, parameters));
  }
  region.dram_size = parameters.dram_size == 0 ? size : parameters.dram_size;
  tiering::log_if_possible([&](spdlog::logger& log) {
    log.info("'{}': policy {}, at most {} in DRAM, watermarks of {} % and {} %, {}/s", region.path,
             policy_name(parameters.kind), pcow::format_size(region.dram_size),
             parameters.high_percent, parameters.low_percent,
             pcow::format_size(parameters.migrate_rate));
  });
  return {};
}

void fill(const tiering::MigrationStatistics& from, tiering_policy_status& to) {
  const auto refused = [&](Refusal why) { return from.refused.at(static_cast<size_t>(why)); };
  to.steps = from.steps;
  to.plans = from.plans;
  to.failed_steps = from.failed_steps;
  to.promoted_pages = from.promoted_pages;
  to.planned_demotions = from.planned_demotions;
  to.limit_demotions = from.limit_demotions;
  to.watched_chunks = from.watched_chunks;
  to.unmapped_pages = from.unmapped_pages;
  to.read_pages = from.read_pages;
  to.refused_cool_down = refused(Refusal::kCoolDown);
  to.refused_pinned = refused(Refusal::kPinned);
  to.refused_rate = refused(Refusal::kRate);
  to.refused_no_colder_page = refused(Refusal::kNoColderPage);
  to.refused_unmovable = refused(Refusal::kUnmovable);
  to.refused_failed = refused(Refusal::kFailed);
  to.tracker_bytes = from.tracker_bytes;
  to.busy_ns = static_cast<uint64_t>(from.busy.count());
  copy_text(to.last_failure, from.last_failure);
  to.hit_permille = from.hit_permille ? static_cast<int32_t>(*from.hit_permille) : -1;
}

tiering_explained explained(const tiering::ExplainedRun& from) {
  tiering_explained to{};
  to.struct_size = sizeof to;
  to.first_page = from.placed.run.first.value;
  to.pages = from.placed.run.count;
  to.place = static_cast<tiering_place>(from.placed.place);
  to.dirty = from.placed.dirty;
  to.pinned = from.placed.pinned;
  to.known = from.known;
  to.written = from.written;
  to.heat_permille = from.heat * 1000 / tiering::PageRecord::kHeatMax;
  to.idle_epochs = from.idle;
  to.cool_down = from.cool_down;
  to.score = from.score;
  to.verdict = from.verdict ? tiering::verdict_name(*from.verdict) : nullptr;
  return to;
}

// The pages that hold these bytes.
Result<tiering::PageRun> pages_of(const tiering_region& region, uint64_t offset, uint64_t length) {
  const uint64_t size = region.region->size();
  if (length == 0 || offset > size || length > size - offset) {
    return make_error(Code::kInvalid, "there are no " + std::to_string(length) + " bytes at " +
                                          std::to_string(offset) + ": the region has " +
                                          std::to_string(size));
  }
  const uint64_t first = offset / pcow::kPageSize;
  const uint64_t last = (offset + length - 1) / pcow::kPageSize;
  return tiering::PageRun{pcow::PageIndex(first), last - first + 1};
}

// Of a region without a policy: where the pages are.
Result<std::vector<tiering::ExplainedRun>> places_of(tiering_region& region,
                                                     tiering::PageRun range) {
  if (range.count > tiering::Migration::kExplainedPagesMax) {
    return make_error(Code::kInvalid, "that are too many pages: ask for 1 GiB at most");
  }
  PCOW_TRY_ASSIGN(const std::vector<tiering::PlacedRun> places,
                  region.shared->with([&](tiering::Region& r) { return r.places(range); }));
  std::vector<tiering::ExplainedRun> runs;
  runs.reserve(places.size());
  for (const tiering::PlacedRun& placed : places) runs.push_back({.placed = placed});
  return runs;
}

}  // namespace

namespace tiering::c_api {

Result<void> check_policy(tiering_policy policy, tiering_persistence persistence) {
  const auto number = static_cast<size_t>(policy);
  if (number >= std::size(kAllPolicies)) {
    return make_error(Code::kInvalid, "tier-policy=" + std::to_string(number) +
                                          " is unknown: use off, static, age, heat or cmq");
  }
  if (policy == TIERING_POLICY_OFF || persistence == TIERING_PERSISTENCE_EPOCH) return {};
  return make_error(Code::kUnsupported,
                    std::string("tier-policy=") + policy_name(static_cast<PolicyKind>(policy)) +
                        " needs persistence=epoch: a volatile region moves pages at commits only");
}

Result<void> add_policy(const tiering_options& options, tiering_region& region) {
  if (options.persistence != TIERING_PERSISTENCE_EPOCH) return {};
  const uint64_t size = region.region->size();
  const PolicyParameters parameters{.kind = static_cast<PolicyKind>(options.policy),
                                    .dram_size = limit_of(region.dram_size, size)};
  const auto failed = [path = region.path](const pcow::Error& error) {
    log().warn("'{}': the tiering policy: {}", path, error.message);
  };
  region.migration =
      std::make_unique<Migration>(*region.shared, size, parameters.dram_size,
                                  MigrationOptions{.parallel = kParallel, .failed = failed});
  return region.migration->set_parameters(parameters);
}

}  // namespace tiering::c_api

extern "C" {

int tiering_region_set_policy(tiering_region* region, const struct tiering_policy_options* options,
                              struct tiering_error* err) {
  return guarded(err, [&] { return set_policy(*region, options); });
}

int tiering_region_get_policy(tiering_region* region, struct tiering_policy_options* options,
                              struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    const tiering::PolicyParameters parameters =
        region->migration ? region->migration->parameters() : tiering::PolicyParameters();
    tiering_policy_options values{};
    values.policy = static_cast<tiering_policy>(parameters.kind);
    values.dram_size_bytes = region->dram_size;
    values.high_percent = parameters.high_percent;
    values.low_percent = parameters.low_percent;
    values.migrate_rate = parameters.migrate_rate;
    return export_struct(values, options, "tiering_policy_options");
  });
}

int tiering_region_policy_status(tiering_region* region, struct tiering_policy_status* status,
                                 struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    tiering_policy_status values{};
    values.hit_permille = -1;
    if (region->migration) fill(region->migration->statistics(), values);
    return export_struct(values, status, "tiering_policy_status");
  });
}

int tiering_region_explain(tiering_region* region, uint64_t offset, uint64_t length,
                           void (*each)(void* opaque, const struct tiering_explained* pages),
                           void* opaque, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    if (!region->image) return make_error(Code::kInvalid, "the region was shut down");
    PCOW_TRY_ASSIGN(const tiering::PageRun range, pages_of(*region, offset, length));
    PCOW_TRY_ASSIGN(
        const std::vector<tiering::ExplainedRun> runs,
        region->migration ? region->migration->explain(range) : places_of(*region, range));
    for (const tiering::ExplainedRun& run : runs) {
      const tiering_explained values = explained(run);
      each(opaque, &values);
    }
    return {};
  });
}

}  // extern "C"
