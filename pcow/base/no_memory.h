// SPDX-License-Identifier: BSD-3-Clause
//
// Memory that runs out, as an error like any other: no exception leaves the library.
#pragma once

#include <pcow/status.h>
#include <new>
#include <string>

namespace pcow {

// ENOMEM; names the file, if there is memory for that.
Error no_memory_error(const std::string& path) noexcept;

// Runs `body`, which returns a Result.
template <typename Body>
auto memory_checked(const std::string& path, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return no_memory_error(path);
  }
}

}  // namespace pcow
