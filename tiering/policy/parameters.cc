// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/policy/parameters.h"

#include <algorithm>
#include <string>

namespace tiering {

using pcow::Code;
using pcow::kPageSize;
using pcow::make_error;

pcow::Result<void> check_parameters(const PolicyParameters& parameters, uint64_t region_bytes) {
  const std::string size = std::to_string(parameters.dram_size);
  if (parameters.dram_size % kPageSize != 0) {
    return make_error(Code::kInvalid, "dram-size=" + size + " is not a multiple of 4096 bytes");
  }
  if (parameters.dram_size > region_bytes) {
    return make_error(Code::kInvalid,
                      "dram-size=" + size + " is larger than size=" + std::to_string(region_bytes));
  }
  const std::string marks = "high=" + std::to_string(parameters.high_percent) +
                            "% and low=" + std::to_string(parameters.low_percent) + "%";
  if (parameters.high_percent > 100 || parameters.low_percent > parameters.high_percent ||
      parameters.low_percent == 0) {
    return make_error(Code::kInvalid, marks + " are no watermarks: 1% <= low <= high <= 100%");
  }
  if (parameters.migrate_rate < kPageSize) {
    return make_error(Code::kInvalid, "migrate-rate=" + std::to_string(parameters.migrate_rate) +
                                          " is less than a page of 4096 bytes a second");
  }
  return {};
}

double moves_in(const PolicyParameters& parameters, std::chrono::nanoseconds elapsed) {
  const double seconds = std::chrono::duration<double>(elapsed).count();
  const double pages = static_cast<double>(parameters.migrate_rate) * seconds / kPageSize;
  return std::clamp(pages, 0.0, double{kMovesMax});
}

Budget budget_of(const PolicyParameters& parameters, uint64_t region_bytes, uint64_t move_pages) {
  Budget budget;
  const bool limited = parameters.dram_size != 0;
  budget.limit_pages = (limited ? parameters.dram_size : region_bytes) / kPageSize;
  budget.high_pages = budget.low_pages = budget.limit_pages;
  if (limited) {
    budget.high_pages = budget.limit_pages * parameters.high_percent / 100;
    budget.low_pages = budget.limit_pages * parameters.low_percent / 100;
  }
  budget.move_pages = move_pages;
  return budget;
}

}  // namespace tiering
