// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/create_request.h"

#include <pcow/image.h>
#include <algorithm>
#include <bit>
#include <charconv>

#include "tools/common/failure.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

constexpr uint64_t kMaxClusterKib = pcow::kChunkSize / pcow::kKiB;

bool is_number(const std::string& word) {
  return !word.empty() &&
         std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_size(const std::string& word) { return pcow::parse_size(word).has_value(); }

uint64_t number(const std::string& what, const std::string& word) {
  uint64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [stop, error] = std::from_chars(word.data(), end, value);
  if (error != std::errc() || stop != end) {
    throw tools::UsageError(what + " '" + word + "' is too large");
  }
  return value;
}

CreateRequest parse_published_form(const std::vector<std::string>& words) {
  CreateRequest request;
  request.file = words[2];
  if (is_size(request.file)) {
    throw tools::UsageError("'" + words[0] + " " + words[1] + " " + words[2] +
                            "' is ambiguous: if the file is really called '" + request.file +
                            "', write './" + request.file + "'");
  }
  request.cluster_kib = number("cluster size", words[0]);
  if (!std::has_single_bit(*request.cluster_kib) || *request.cluster_kib < 4 ||
      *request.cluster_kib > kMaxClusterKib) {
    throw tools::UsageError("cluster size '" + words[0] +
                            "' is not a power of two between 4 and 2048 (KiB)");
  }
  const uint64_t gib = number("image size", words[1]);
  if (gib > pcow::kMaxVirtualSize / pcow::kGiB) {
    throw tools::UsageError("image size '" + words[1] + "' (GiB) is too large: the limit is " +
                            pcow::format_size(pcow::kMaxVirtualSize));
  }
  request.size = gib * pcow::kGiB;
  return request;
}

}  // namespace

CreateRequest parse_create_words(const std::vector<std::string>& words) {
  if (words.empty()) throw tools::UsageError("expecting image file name");
  if (words.size() == 1) throw tools::UsageError("expecting image size after '" + words[0] + "'");
  const bool two_numbers = is_number(words[0]) && is_number(words[1]);
  if (words.size() == 3 && two_numbers) return parse_published_form(words);
  if (words.size() > 2) throw tools::UsageError("unexpected argument '" + words[2] + "'");
  if (two_numbers) {
    throw tools::UsageError("'" + words[0] + " " + words[1] +
                            "' is ambiguous: either the file is missing (CLUSTER_KB SIZE_GB FILE), "
                            "or the file is called '" +
                            words[0] + "': then write './" + words[0] + "'");
  }
  CreateRequest request;
  request.file = words[0];
  request.size = parse_size_argument("image size", words[1]);
  return request;
}

}  // namespace pcow_img
