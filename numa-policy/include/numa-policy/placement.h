// SPDX-License-Identifier: BSD-3-Clause
//
// Where the DRAM pages of a mapping come from: mbind(2) by way of libnuma.
#pragma once

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace numa {

enum class Policy { kDefault, kPreferred, kBind, kInterleave };

struct Placement {
  Policy policy = Policy::kDefault;
  std::vector<unsigned> nodes = {};  // host nodes; empty exactly with kDefault
};

// Checks a placement against the nodes of this host. Errors: kInvalid, naming node or combination;
// kUnsupported when the kernel has no NUMA support and one is asked for.
pcow::Result<void> validate(const Placement& placement);

// Applies it to [address, address + length), page-aligned. Existing pages stay where they are.
// Errors: kInvalid, kNoMemory, kPermission.
pcow::Result<void> apply(const Placement& placement, void* address, size_t length);

}  // namespace numa
