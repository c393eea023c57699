// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>

namespace tools {

// "2026-11-20 16:52:44", in local time, of nanoseconds since 1970.
std::string date_text(uint64_t ns);

}  // namespace tools
