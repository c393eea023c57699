// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/field_text.h"

#include <pcow/image.h>
#include <array>
#include <charconv>
#include <optional>

#include "pcow/base/printable.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

constexpr const char* kAbsent = "-";

}  // namespace

std::string field_text(const Json& object, const char* key) {
  return pcow::printable(text_field(object, key).value_or(kAbsent));
}

std::string field_count(const Json& object, const char* key) {
  const auto value = number_field(object, key);
  return value ? std::to_string(*value) : kAbsent;
}

std::string field_size(const Json& object, const char* key) {
  const auto value = number_field(object, key);
  return value ? pcow::format_size(*value) : kAbsent;
}

std::string field_time(const Json& object, const char* key) {
  const auto value = number_field(object, key);
  return value ? format_time(*value) : kAbsent;
}

std::string format_time(uint64_t time_ns) {
  static constexpr std::array kUnits = {"ns", "us", "ms", "s"};
  double value = static_cast<double>(time_ns);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  std::array<char, 32> digits{};
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value,
                                          std::chars_format::general, value >= 1000 ? 6 : 3);
  return std::string(digits.data(), end) + " " + kUnits[unit];
}

const Json& field_object(const Json& object, const char* key) {
  static const Json kNone = Json::object();
  const auto field = object.find(key);
  return field != object.end() && field->is_object() ? *field : kNone;
}

}  // namespace tierctl
