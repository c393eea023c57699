// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/image.h>
#include <array>
#include <charconv>
#include <cmath>

namespace pcow {
namespace {

constexpr std::string_view kSuffixes = "BKMGTPE";
constexpr double kTwoTo63 = 9223372036854775808.0;

Error bad_size(std::string_view text, std::string_view why) {
  return make_error(Code::kInvalid, "'" + std::string(text) +
                                        "' is not a size: " + std::string(why) +
                                        "; give bytes or a number with suffix K, M, G, T, P or E");
}

}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, ec] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (ec != std::errc() || std::signbit(value)) return bad_size(text, "no number");
  uint64_t factor = 1;
  if (rest != end) {
    const char suffix = static_cast<char>(*rest & ~0x20);
    const size_t power = kSuffixes.find(suffix);
    if (power == std::string_view::npos || rest + 1 != end) return bad_size(text, "unknown suffix");
    factor = uint64_t{1} << (10 * power);
  }
  // Whole numbers are exact; only fractions ("1.5G") go through floating point.
  uint64_t whole = 0;
  const auto [whole_end, whole_ec] = std::from_chars(text.data(), rest, whole);
  if (whole_ec == std::errc() && whole_end == rest) {
    if (whole > static_cast<uint64_t>(INT64_MAX) / factor) return bad_size(text, "too large");
    return whole * factor;
  }
  const double bytes = value * static_cast<double>(factor);
  if (!(bytes < kTwoTo63)) return bad_size(text, "too large");
  if (bytes != std::floor(bytes)) return bad_size(text, "not a whole number of bytes");
  return static_cast<uint64_t>(bytes);
}

std::string format_size(uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  size_t unit = 0;
  double value = static_cast<double>(bytes);
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text{};
  const auto [end, ec] =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::general, 3);
  return std::string(text.data(), end) + " " + kUnits[unit];
}

}  // namespace pcow
