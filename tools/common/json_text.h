// SPDX-License-Identifier: BSD-3-Clause
//
// JSON as the tools print it.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tools {

// A value that is to be an object or array begins as object() or array(): one that operator[] or
// push_back() makes of null (nlohmann 3.11) cannot be destroyed when memory runs out meanwhile.

// Keys keep the order they were added in. Bytes that are not UTF-8 (file names may hold any) become
// U+FFFD instead of an error. `indent` < 0: one line.
std::string json_text(const nlohmann::ordered_json& value, int indent = 4);

}  // namespace tools
