// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/json_text.h"

#include <nlohmann/json.hpp>

namespace tools {

std::string json_text(const nlohmann::ordered_json& value, int indent) {
  return value.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tools
