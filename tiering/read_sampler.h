// SPDX-License-Identifier: BSD-3-Clause
//
// Which pages of the image are read. Reading leaves no mark in the page table of a page that is
// mapped, so the image's own pages are unmapped from time to time: those that somebody accesses are
// mapped again. It sees accesses of guests too, for the kernel takes them out of EPT and NPT with
// the page table.
//
// Private copies, which are the only place of what was stored last, stay (page_entry.h says how
// they are told from other pages).
//
// The mapping has to be registered for write tracking: elsewhere the kernel maps the neighbours of
// a page that is read as well ("fault-around"). What it maps with one entry of 2 MiB is read, or
// not, as a whole.
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <functional>

#include "tiering/kernel/advice.h"
#include "tiering/kernel/pagemap.h"

namespace tiering {

using kernel::AddressRange;

class ReadSampler {
 public:
  using Sink = std::function<void(AddressRange)>;

  // Errors: kNotFound (no /proc), kPermission, kNoMemory.
  static pcow::Result<ReadSampler> create();

  // Unmaps what the range shows of files, and returns how many pages these are.
  // REQUIRES: nobody stores into the range. Whole pages, private mappings only.
  // Errors: kIo, kNoMemory: nothing is lost, and a part may be unmapped.
  pcow::Result<uint64_t> zap(AddressRange range);

  // Reports, as runs, ascending, what the range shows of files and is mapped: after zap(), what was
  // read since. What was stored to since is not among it. Errors: kIo, kNoMemory.
  pcow::Result<void> collect(AddressRange range, const Sink& sink) const;

 private:
  explicit ReadSampler(kernel::Pagemap pagemap) : pagemap_(std::move(pagemap)) {}

  kernel::Pagemap pagemap_;
};

}  // namespace tiering
