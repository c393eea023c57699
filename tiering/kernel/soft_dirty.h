// SPDX-License-Identifier: BSD-3-Clause
//
// Soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): the kernel sets bit 55 of a pagemap entry when the page
// is written; writing to /proc/self/clear_refs clears the bits of the whole process, there is no
// smaller unit.
#pragma once

#include <pcow/status.h>

namespace tiering::kernel {

// Clears the soft-dirty bits of every page of this process. Errors: kPermission, kUnsupported,
// kIo.
pcow::Result<void> clear_soft_dirty();

// Whether the kernel really keeps soft-dirty bits: clear_refs accepts the request without them, so
// a page is written and looked at. Clears the bits of the whole process. Errors: as above,
// kNoMemory.
pcow::Result<bool> probe_soft_dirty();

}  // namespace tiering::kernel
