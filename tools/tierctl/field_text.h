// SPDX-License-Identifier: BSD-3-Clause
//
// Fields of what QEMU answered, as text for people: "-" for one that this QEMU does not have.
#pragma once

#include <cstdint>
#include <string>

#include "tools/tierctl/qmp_client.h"

namespace tierctl {

// Safe to print, whatever it holds.
std::string field_text(const Json& object, const char* key);
std::string field_count(const Json& object, const char* key);
std::string field_size(const Json& object, const char* key);  // of bytes: "1.5 GiB"
std::string field_time(const Json& object, const char* key);  // of nanoseconds: "1.25 ms"

// "1.25 ms"
std::string format_time(uint64_t time_ns);

// An object within another; an empty one if there is none.
const Json& field_object(const Json& object, const char* key);

}  // namespace tierctl
