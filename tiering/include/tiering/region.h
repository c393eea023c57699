// SPDX-License-Identifier: BSD-3-Clause
//
// A region: guest memory mapped over a pcow image, chunk by chunk.
//
//   chunk state   mapping                                 guest read      guest write
//   hole          anonymous private                       zero page       kernel zero-fills DRAM
//   cached        MAP_PRIVATE of the chunk's window       straight from   kernel copies the page
//                                                         the image       to DRAM
//
// The kernel takes every fault; the region changes mappings only inside commit(), while the caller
// keeps all writers quiet. That single rule is what makes "no lost store" arguable: see
// ARCHITECTURE.md, "The barrier rule".
//
// Thread-safety: base() and size() are constant; everything else is for one thread at a time.
#pragma once

#include <numa-policy/placement.h>
#include <pcow/image.h>
#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

namespace tiering {

inline constexpr uint32_t kDefaultMappingBudget = 8192;
inline constexpr uint32_t kMinMappingBudget = 16;

enum class TrackerKind {
  kAuto,         // pagemap-scan where the kernel has it, else soft-dirty
  kPagemapScan,  // PAGEMAP_SCAN over userfaultfd WP_ASYNC (Linux 6.7)
  kSoftDirty,    // /proc/self/clear_refs (CONFIG_MEM_SOFT_DIRTY)
};
std::string_view tracker_name(TrackerKind kind);  // "pagemap-scan", "soft-dirty"

struct RegionOptions {
  uint64_t dram_size = 0;  // bytes of DRAM kept after a commit; 0: no limit
  uint32_t mapping_budget = kDefaultMappingBudget;
  TrackerKind tracker = TrackerKind::kAuto;
  numa::Placement placement = {};  // of DRAM pages
  bool dump = true;                // include in core dumps
};

struct CommitReport {
  pcow::Epoch epoch;
  uint64_t scanned_pages = 0;
  uint64_t written_pages = 0;
  uint64_t zero_pages = 0;
  uint64_t demoted_pages = 0;
};

struct RegionStatus {
  uint64_t dram_resident_bytes = 0;
  uint64_t dirty_bytes = 0;
  uint64_t hole_chunks = 0;
  uint64_t cached_chunks = 0;
  uint32_t mappings = 0;
  uint32_t mapping_budget = 0;
  TrackerKind tracker = TrackerKind::kPagemapScan;
};

class Region {
 public:
  // Maps the whole image (opened kReadWrite). The image must outlive the region.
  // Errors: kNoMemory (address space or mappings), kPermission (userfaultfd, pagemap),
  // kUnsupported (no way to find dirty pages on this kernel), kInvalid (budget, placement),
  // kCorrupt, kIo.
  static pcow::Result<std::unique_ptr<Region>> map(pcow::Image& image,
                                                   const RegionOptions& options);
  // Unmaps; what was not committed is gone.
  virtual ~Region() = default;
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  virtual std::byte* base() const = 0;  // aligned to 1 GiB (2 MiB when smaller than 1 GiB)
  virtual uint64_t size() const = 0;

  // Writes the dirty pages to the image and makes them durable; then, if may_demote, drops DRAM
  // copies until at most dram_size is resident, turning committed holes into cached chunks as far
  // as the mapping budget allows.
  // REQUIRES: nobody stores into the region meanwhile; for may_demote also: no DMA in flight.
  // On failure every page that did not reach the image is still dirty. Errors: kNoSpace, kIo,
  // kCorrupt, kNoMemory (only demotion was cut short: the data is committed).
  virtual pcow::Result<CommitReport> commit(bool may_demote) = 0;

  // Before the image is closed: gives back file space that reading holes took up, if any did.
  // Errors: kIo, kNoSpace.
  virtual pcow::Result<void> reclaim() = 0;

  virtual pcow::Result<RegionStatus> status() const = 0;

  // Applies the attributes all mappings of the region share (see tiering.h).
  virtual pcow::Result<void> apply_attributes() = 0;

 protected:
  Region() = default;
};

}  // namespace tiering
