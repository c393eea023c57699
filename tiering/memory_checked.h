// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/status.h>
#include <new>

namespace tiering {

// Runs `body`, which returns a Result: memory that runs out is an error like any other. `message`
// says what did not happen.
template <typename Body>
auto memory_checked(const char* message, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return pcow::make_error(pcow::Code::kNoMemory, message);
  }
}

}  // namespace tiering
