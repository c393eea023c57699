// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include "tiering/kernel/vma_list.h"
#include "tiering/region_impl.h"

namespace tiering {

using pcow::ChunkIndex;
using pcow::Code;
using pcow::GibIndex;
using pcow::make_error;

namespace {

// Mappings that opening aims at: they take about 3 µs each, and the rest of the budget is for what
// the guest does.
constexpr uint32_t kMappingsAtOpen = 1024;

// Mappings left to the rest of the process.
constexpr uint64_t kMappingReserve = 1024;

pcow::Result<void> validate(const RegionOptions& options) {
  const std::string budget = "mapping-budget=" + std::to_string(options.mapping_budget);
  if (options.mapping_budget < kMinMappingBudget) {
    return make_error(Code::kInvalid, budget + " is too small: use " +
                                          std::to_string(kMinMappingBudget) + " or more (default " +
                                          std::to_string(kDefaultMappingBudget) + ")");
  }
  const uint64_t limit = kernel::max_map_count();
  if (options.mapping_budget + kMappingReserve > limit) {
    return make_error(Code::kInvalid, budget +
                                          " leaves too few mappings to the rest of the "
                                          "process: vm.max_map_count is " +
                                          std::to_string(limit) +
                                          "; lower the budget or raise vm.max_map_count");
  }
  return numa::validate(options.placement);
}

// Each chunk in one window: where layers, or a base, share a chunk, its pages are copied together
// first.
pcow::Result<pcow::GibLayout> layout_to_map(pcow::Image& image, ChunkRun run) {
  const GibIndex gib = pcow::gib_of(run.first);
  PCOW_TRY_ASSIGN(pcow::GibLayout layout, image.layout(gib));
  uint64_t copied = 0;
  for (uint64_t i = 0; i < run.count; ++i) {
    if (layout.chunks.at(i).kind != pcow::GibLayout::Kind::kMixed) continue;
    PCOW_TRY_ASSIGN(const uint64_t pages, image.fold(run.first + i, 1));
    copied += pages;
  }
  return copied == 0 ? layout : image.layout(gib);
}

// Reads from the image where its pages are, and decides how to map them. Whole GiBs are copied
// together where the image's layers leave more pieces than the budget has mappings.
pcow::Result<ChunkMap> plan_mappings(pcow::Image& image, const RegionOptions& options) {
  ChunkMap chunks(image.virtual_size() / pcow::kChunkSize);
  for (GibIndex gib(0); gib.value < chunks.gibs(); ++gib) {
    PCOW_TRY_ASSIGN(const pcow::GibLayout layout, layout_to_map(image, chunks.gib_run(gib)));
    chunks.want(gib, layout);
  }
  const uint64_t aim = std::min(options.mapping_budget, kMappingsAtOpen);
  uint64_t mappings = chunks.plan(aim);
  while (mappings > options.mapping_budget) {
    const std::optional<GibIndex> worst = chunks.most_scattered_gib();
    if (!worst) break;
    const ChunkRun run = chunks.gib_run(*worst);
    PCOW_TRY(image.fold(run.first, run.count));
    PCOW_TRY_ASSIGN(const pcow::GibLayout layout, image.layout(*worst));
    chunks.want(*worst, layout);
    mappings = chunks.plan(aim);
  }
  if (mappings <= options.mapping_budget) return chunks;
  const std::string least = std::to_string(mappings);
  return make_error(Code::kNoMemory,
                    "mapping-budget=" + std::to_string(options.mapping_budget) +
                        " is too small: this image needs at least " + least +
                        " kernel mappings, because its segments are scattered over the file, or "
                        "over those of a stripe set in small units; use mapping-budget=" +
                        least + " or more");
}

}  // namespace

Backing backing_of(const pcow::Image& image) {
  bool dax = image.info().granularity != pcow::Granularity::kPage;
  for (uint32_t i = 0; i < image.file_count(); ++i) dax |= image.file(i).dax;
  return dax ? Backing::kDax : Backing::kPageCache;
}

pcow::Result<std::unique_ptr<Region>> Region::map(pcow::Image& image,
                                                  const RegionOptions& options) {
  const auto map = [&]() -> pcow::Result<std::unique_ptr<Region>> {
    PCOW_TRY(validate(options));
    PCOW_TRY_ASSIGN(auto tracker, DirtyTracker::create(options.tracker, backing_of(image)));
    return map_region(image, options, std::move(tracker));
  };
  return memory_checked("out of memory while mapping the image", map);
}

pcow::Result<std::unique_ptr<Region>> map_region(pcow::Image& image, const RegionOptions& options,
                                                 std::unique_ptr<DirtyTracker> tracker) {
  PCOW_TRY_ASSIGN(ChunkMap chunks, plan_mappings(image, options));
  const uint64_t size = image.virtual_size();
  const uint64_t alignment = size < pcow::kGiB ? pcow::kChunkSize : pcow::kGiB;
  PCOW_TRY_ASSIGN(AddressSpace space, AddressSpace::map(size, alignment));
  auto region = std::make_unique<RegionImpl>(image, options, std::move(tracker), std::move(chunks),
                                             std::move(space));
  PCOW_TRY(region->map_planned());
  return region;
}

RegionImpl::RegionImpl(pcow::Image& image, const RegionOptions& options,
                       std::unique_ptr<DirtyTracker> tracker, ChunkMap chunks, AddressSpace space)
    : image_(image),
      options_(options),
      tracker_(std::move(tracker)),
      dram_size_(options.dram_size),
      chunks_(std::move(chunks)),
      residency_(chunks_.chunks()),
      space_(std::move(space)) {
  const pcow::ImageInfo info = image_.info();
  compare_ = tracker_->may_report_clean();
  crash_reclaim_due_ = !info.clean;
  reclaim_floor_ = info.disk_bytes - std::min(info.disk_bytes, info.allocated_bytes);
}

AddressRange RegionImpl::range_of(ChunkRun run) const {
  return {space_.at(run.first.value * pcow::kChunkSize), run.count * pcow::kChunkSize};
}

pcow::PageIndex RegionImpl::page_at(const std::byte* address) const {
  return pcow::PageIndex(space_.offset_of(address) / pcow::kPageSize);
}

pcow::Result<void> RegionImpl::map_planned() {
  for (ChunkIndex at(0); at.value < chunks_.chunks();) {
    const ChunkRun run = chunks_.run_from(at);
    if (chunks_.state(at) == ChunkState::kCached) {
      PCOW_TRY(map_windows(run, chunks_.place(at)));
    }
    at = run.end();
  }
  PCOW_TRY(set_attributes());
  return tracker_->rearm();
}

// Sets what all mappings of the region have in common, and the one thing in which holes and cached
// chunks differ: a hole stays at 4 KiB, or reading it would fill 2 MiB of DRAM; a cached chunk
// keeps the 2 MiB mappings of its medium. Equal attributes let neighbouring mappings merge.
//
// Placement: the kernel keeps the policy of tmpfs pages with the file, so that there it also
// applies to image pages that are allocated later.
pcow::Result<void> RegionImpl::set_attributes() {
  attributes_stale_ = true;
  residency_.invalidate_all();
  PCOW_TRY(kernel::advise_no_fork(base(), size()));
  PCOW_TRY(kernel::advise_no_merge(base(), size()));
  PCOW_TRY(kernel::advise_dump(base(), size(), options_.dump));
  if (options_.placement.policy != numa::Policy::kDefault) {
    PCOW_TRY(numa::apply(options_.placement, base(), size()));
  }
  for (ChunkIndex at(0); at.value < chunks_.chunks();) {
    const ChunkRun run = chunks_.run_from(at);
    const bool cached = chunks_.state(at) == ChunkState::kCached;
    const AddressRange range = range_of(run);
    PCOW_TRY(kernel::advise_huge_pages(
        range.start, range.length,
        cached ? kernel::HugePages::kAllowed : kernel::HugePages::kNever));
    at = run.end();
  }
  PCOW_TRY(tracker_->attach(whole()));
  attributes_stale_ = false;
  return {};
}

pcow::Result<void> RegionImpl::map_windows(ChunkRun run, pcow::FilePlace place) {
  return space_.map_file(run.first.value * pcow::kChunkSize, run.count * pcow::kChunkSize,
                         image_.file(place.file).fd, place.offset);
}

// Turns a run into cached chunks, whose windows begin at `place`. REQUIRES: one GiB, every page of
// the run equals the image's.
pcow::Result<void> RegionImpl::map_cached(ChunkRun run, pcow::FilePlace place) {
  PCOW_TRY(map_windows(run, place));
  chunks_.set_cached(run, place);
  return give_attributes(run, kernel::HugePages::kAllowed);
}

// To a run that was mapped anew.
pcow::Result<void> RegionImpl::give_attributes(ChunkRun run, kernel::HugePages huge) {
  const AddressRange range = range_of(run);
  // From here on a failure leaves a usable, but not yet tracked mapping: every page in it that
  // gets written counts as dirty, and the next commit() applies the attributes again.
  attributes_stale_ = true;
  rearm_due_ = true;
  residency_.invalidate(run);
  PCOW_TRY(kernel::advise_huge_pages(range.start, range.length, huge));
  PCOW_TRY(kernel::advise_no_fork(range.start, range.length));
  PCOW_TRY(kernel::advise_no_merge(range.start, range.length));
  PCOW_TRY(kernel::advise_dump(range.start, range.length, options_.dump));
  if (options_.placement.policy != numa::Policy::kDefault) {
    PCOW_TRY(numa::apply(options_.placement, range.start, range.length));
  }
  PCOW_TRY(tracker_->attach(range));
  attributes_stale_ = false;
  return {};
}

pcow::Result<uint64_t> RegionImpl::count_resident() {
  uint64_t pages = 0;
  PCOW_TRY_ASSIGN(const std::span<const ChunkResidency> known, refresh_residency());
  for (const ChunkResidency& chunk : known) pages += chunk.resident.count();
  return pages * pcow::kPageSize;
}

void RegionImpl::copies_changed(AddressRange range) {
  const ChunkIndex first = pcow::chunk_of(page_at(range.start));
  const ChunkIndex last = pcow::chunk_of(page_at(range.start + range.length - 1));
  residency_.invalidate({first, last - first + 1});
}

pcow::Result<void> RegionImpl::drop_copies(std::span<const AddressRange> ranges) {
  for (const AddressRange& range : ranges) {
    copies_changed(range);
    PCOW_TRY(tracker_->disarm(range));
  }
  return kernel::drop_pages(ranges);
}

uint64_t RegionImpl::remembered_pages() const {
  uint64_t pages = pending_.size();
  candidates_.for_each([&](pcow::PageIndex page) { pages += pending_.contains(page) ? 0U : 1U; });
  return pages;
}

pcow::Result<void> RegionImpl::apply_attributes() {
  return memory_checked("out of memory while setting the attributes of the region; try again",
                        [&] { return set_attributes(); });
}

pcow::Result<RegionStatus> RegionImpl::status() const {
  return memory_checked("out of memory while looking at the region", [&] { return look(); });
}

// Those that a commit armed and could not finish are dirty as well.
uint64_t RegionImpl::remembered_in(AddressRange run) const {
  uint64_t remembered = 0;
  const pcow::PageIndex first = page_at(run.start);
  for (uint64_t i = 0; i < run.length / pcow::kPageSize; ++i) {
    if (pending_.contains(first + i) || candidates_.contains(first + i)) ++remembered;
  }
  return remembered;
}

pcow::Result<uint64_t> RegionImpl::dirty_pages() const {
  return memory_checked("out of memory while looking at the region",
                        [&]() -> pcow::Result<uint64_t> {
                          const uint64_t remembered = remembered_pages();
                          uint64_t pages = remembered;
                          PCOW_TRY(tracker_->find_dirty(whole(), [&](AddressRange run) {
                            pages += run.length / pcow::kPageSize;
                            if (remembered > 0) pages -= remembered_in(run);
                          }));
                          return pages;
                        });
}

pcow::Result<RegionStatus> RegionImpl::look() const {
  RegionStatus status;
  uint64_t huge_bytes = 0;
  const auto count = [&](AddressRange run, PageState state) {
    if (state.resident) status.dram_resident_bytes += run.length;
    if (state.huge) huge_bytes += run.length;
  };
  PCOW_TRY(tracker_->inspect(whole(), count));
  PCOW_TRY_ASSIGN(const uint64_t dirty, dirty_pages());
  status.dirty_bytes = dirty * pcow::kPageSize;
  status.cached_chunks = chunks_.cached_chunks();
  status.huge_chunks = huge_bytes / pcow::kChunkSize;
  status.hole_chunks = chunks_.chunks() - status.cached_chunks - status.huge_chunks;
  status.mappings = static_cast<uint32_t>(chunks_.mappings());
  status.mapping_budget = options_.mapping_budget;
  status.tracker = tracker_->kind();
  return status;
}

}  // namespace tiering
