// SPDX-License-Identifier: BSD-3-Clause
//
// The one place that calls oneTBB.
#pragma once

#include <cstddef>
#include <functional>

namespace tiering {

// Calls body(begin, end) for parts that make up [0, count), on this thread and on oneTBB's workers,
// and returns when all are done. The caller may hold locks: this thread does nothing else
// meanwhile. `body` must not throw. Throws std::bad_alloc.
void parallel_parts(size_t count, const std::function<void(size_t begin, size_t end)>& body);

}  // namespace tiering
