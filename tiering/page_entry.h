// SPDX-License-Identifier: BSD-3-Clause
//
// Which pages of a private mapping are private copies, told by their entries in
// /proc/self/pagemap. They tell more than PAGEMAP_SCAN, which has no category for pages that are
// exclusive and does not call the pages of a DAX medium kFile (Linux 6.12).
//
//   entry                          present swapped exclusive file    private copy
//   private copy                      x       -        x      -        yes
//   private copy, swapped out         -       x        -      -        yes
//   page of the file                  x       -        ?      x        no
//   page of a DAX medium (6.12)       x       -        -      -        no
//   zero page                         x       -        -      -        no
//   nothing                           -       -        -      -        no
//
// A private copy is exclusive because it is in no other page table, which the region sees to: it
// is kept out of child processes and out of the merging of equal pages (kernel/advice.h).
#pragma once

#include <pcow/units.h>
#include <cstdint>
#include <span>

#include "tiering/kernel/pagemap.h"

namespace tiering {

constexpr bool is_private_copy(uint64_t entry) {
  if ((entry & kernel::kEntryFile) != 0) return false;
  if ((entry & kernel::kEntrySwapped) != 0) return true;
  return (entry & kernel::kEntryPresent) != 0 && (entry & kernel::kEntryExclusive) != 0;
}

// Calls fn(index, count) for each longest run of private copies in `entries`, ascending, until it
// fails. fn returns a pcow::Result<void>.
template <typename Fn>
pcow::Result<void> for_each_private_run(std::span<const uint64_t> entries, const Fn& fn) {
  for (size_t at = 0; at < entries.size();) {
    size_t end = at;
    while (end < entries.size() && is_private_copy(entries[end])) ++end;
    if (end > at) PCOW_TRY(fn(at, end - at));
    at = end + 1;
  }
  return {};
}

}  // namespace tiering
