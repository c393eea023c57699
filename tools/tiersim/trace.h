// SPDX-License-Identifier: BSD-3-Clause
//
// Access traces: what a guest does to its pages, epoch by epoch.
#pragma once

#include <pcow/units.h>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tiersim {

// So many reads, or writes, of one page, one after the other.
struct Access {
  uint64_t page = 0;
  uint64_t count = 0;
  uint64_t lines = 0;  // bit l set: line l of the page is among those accessed
  bool write = false;
};

// The simulator keeps about 100 bytes for each page of the footprint and each policy.
inline constexpr uint64_t kFootprintMax = 64 * pcow::kGiB;

class TraceSource {
 public:
  virtual ~TraceSource() = default;

  virtual uint64_t pages() const = 0;  // every page number is below
  virtual uint64_t epochs() const = 0;
  // The accesses of the next epoch, in their order; valid until the next call. REQUIRES: called at
  // most epochs() times.
  virtual const std::vector<Access>& next() = 0;
};

// Reads a recorded trace, lines "EPOCH r|w PAGE COUNT [LINES]" (tiersim(1)). Throws tools::Failure,
// naming file and line.
std::unique_ptr<TraceSource> read_trace(const std::string& path);

}  // namespace tiersim
