// SPDX-License-Identifier: BSD-3-Clause
//
// madvise(2): the attributes of a mapping, and dropping its pages, in batches where the kernel
// allows.
#pragma once

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tiering::kernel {

struct AddressRange {
  std::byte* start = nullptr;
  uint64_t length = 0;

  // As the kernel counts.
  uint64_t first_address() const { return reinterpret_cast<uintptr_t>(start); }
};

enum class HugePages { kNever, kAllowed };

// Allows or forbids 2 MiB mappings. A kernel without them has nothing to forbid: no error.
// Errors: kNoMemory, kInvalid.
pcow::Result<void> advise_huge_pages(void* address, size_t length, HugePages huge);

// Keeps the range out of children of fork(2): a child would turn every later write of the parent
// into a copy, and see guest memory. Errors: kNoMemory, kInvalid.
pcow::Result<void> advise_no_fork(void* address, size_t length);

// Keeps the range out of the merging of equal pages (KSM), also where the process asked for it
// (PR_SET_MEMORY_MERGE): a merged page is in two places of the page table and no private copy any
// more. A kernel without it has nothing to forbid: no error. Errors: kNoMemory.
pcow::Result<void> advise_no_merge(void* address, size_t length);

// Includes the range in core dumps, or not. Errors: kNoMemory, kInvalid.
pcow::Result<void> advise_dump(void* address, size_t length, bool dump);

// Drops private copies: the next access sees zeros (anonymous) or the file. One
// process_madvise(2) for many ranges where the kernel lets a process drop its own pages that way
// (6.13), else one madvise(2) each. Errors: kNoMemory, kInvalid.
pcow::Result<void> drop_pages(std::span<const AddressRange> ranges);

// Makes every page of the range a private copy, as a store to it would, but for the content, which
// stays. Safe beside others that store there. Errors: kNoMemory, kIo (the file ends before, or its
// medium fails), kUnsupported (Linux before 5.14). Some pages may be copies already, then.
pcow::Result<void> populate_for_writing(AddressRange range);

}  // namespace tiering::kernel
