// SPDX-License-Identifier: BSD-3-Clause
//
// The images that operations of fault_operations.h begin with, and what makes and changes them.
// Their errors are exceptions.
#pragma once

#include <pcow/image.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "tests/unit/pcow/fault_world.h"

namespace test {

inline constexpr uint64_t kSecond = pcow::kPagesPerSegment;     // the first page of the second GiB
inline constexpr uint64_t kThird = 2 * pcow::kPagesPerSegment;  // that of the third

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

std::unique_ptr<pcow::Image> open_for(const std::string& path,
                                      pcow::Access access = pcow::Access::kReadWrite);
// Values over others; 0 is a page that is zero again.
void lay(PageValues& pages, const PageValues& over);
void log_epoch(pcow::Image& image, const PageValues& pages);

extern const PageValues kFirstPages;  // what plain() and base.pcow show

Shown plain(FaultWorld& world);
Shown small(FaultWorld& world);
Shown set_of_files(FaultWorld& world);  // vm.pcow and vm.1
// Snapshots a, b and c. In the first GiB a has more pages than b, in the second b more than a.
Shown layers(FaultWorld& world);
// As after a crash: its log has transactions of both kinds.
Shown unclean(FaultWorld& world);
// As after crashes that interrupted a deletion, or a shrink.
Shown half_deleted(FaultWorld& world);
Shown half_shrunk(FaultWorld& world);
// On base.pcow; new.pcow is another one.
Shown based(FaultWorld& world);
Shown raw_based(FaultWorld& world);

}  // namespace test
