// SPDX-License-Identifier: BSD-3-Clause
#include "tools/common/date_text.h"

#include <array>
#include <ctime>

namespace tools {

std::string date_text(uint64_t ns) {
  constexpr uint64_t kNsPerSecond = 1'000'000'000;
  const auto seconds = static_cast<time_t>(ns / kNsPerSecond);
  std::tm local{};
  std::array<char, 32> text{};
  if (localtime_r(&seconds, &local) == nullptr) return "?";
  return {text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local)};
}

}  // namespace tools
