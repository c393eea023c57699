// SPDX-License-Identifier: BSD-3-Clause
//
// How often this process has faulted, as the kernel counts it: without looking at a page table.
#pragma once

#include <cstdint>

namespace tiering::kernel {

// Page faults of all threads, also those of the past, that needed no I/O or needed it. A page that
// a thread makes its own, or stores to for the first time since it was armed, takes one, also where
// a system call or KVM does it for the thread. About 2 µs.
// Not counted are faults that kernel threads take in its place (swapped out pages under KVM). The
// largest number where a sandbox does not allow it.
uint64_t page_faults();

}  // namespace tiering::kernel
