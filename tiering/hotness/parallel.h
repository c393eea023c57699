// SPDX-License-Identifier: BSD-3-Clause
//
// Work on many things at once. Who makes a HeatTracker chooses how, so that only a program that
// links oneTBB anyway has to.
#pragma once

#include <cstddef>
#include <functional>

namespace tiering {

// Calls body(begin, end) for parts that make up [0, count), and returns when all are done. The
// caller may hold locks: this thread does nothing else meanwhile. `body` must not throw. Throws
// std::bad_alloc.
using PartBody = std::function<void(size_t begin, size_t end)>;
using Parallel = void (*)(size_t count, const PartBody& body);

// On this thread alone.
inline void on_this_thread(size_t count, const PartBody& body) {
  if (count > 0) body(0, count);
}

// On this thread and on oneTBB's workers: the one function that calls oneTBB, in a library of its
// own (tiering_onetbb).
void on_onetbb(size_t count, const PartBody& body);

}  // namespace tiering
