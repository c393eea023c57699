// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace pcow_img {

struct CreateRequest {
  std::string file;
  uint64_t size = 0;
  // Set by the published form only.
  std::optional<uint64_t> cluster_kib;
};

// Reads the words of `create`: FILE SIZE, or the form of the published pcow, CLUSTER_KB SIZE_GB
// FILE. Words that could be both are refused. Throws tools::UsageError.
CreateRequest parse_create_words(const std::vector<std::string>& words);

}  // namespace pcow_img
