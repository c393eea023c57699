// SPDX-License-Identifier: BSD-3-Clause
//
// The C boundary of the log.
#include <array>

#include "tiering/c_api_impl.h"
#include "tiering/log.h"

namespace {

using tiering::c_api::guarded;
using tiering::c_api::make_error;
using tiering::c_api::Result;

constexpr std::array kLevels = {std::pair{TIERING_LOG_DEBUG, spdlog::level::debug},
                                std::pair{TIERING_LOG_INFO, spdlog::level::info},
                                std::pair{TIERING_LOG_WARNING, spdlog::level::warn},
                                std::pair{TIERING_LOG_ERROR, spdlog::level::err},
                                std::pair{TIERING_LOG_OFF, spdlog::level::off}};

tiering_log_level exported(spdlog::level::level_enum level) {
  const auto* const found =
      std::ranges::find(kLevels, level, [](const auto& pair) { return pair.second; });
  return found == kLevels.end() ? TIERING_LOG_ERROR : found->first;
}

}  // namespace

extern "C" {

int tiering_log_set_level(enum tiering_log_level level, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    const auto* const found =
        std::ranges::find(kLevels, level, [](const auto& pair) { return pair.first; });
    if (found == kLevels.end()) {
      return make_error(pcow::Code::kInvalid, "there is no log level " + std::to_string(level));
    }
    tiering::log().set_level(found->second);
    return {};
  });
}

enum tiering_log_level tiering_log_get_level(void) { return exported(tiering::log().level()); }

int tiering_log_set_listener(void (*line)(void* opaque, enum tiering_log_level level,
                                          const char* text),
                             void* opaque, struct tiering_error* err) {
  return guarded(err, [&]() -> Result<void> {
    if (line == nullptr) {
      tiering::set_log_listener(nullptr);
    } else {
      tiering::set_log_listener([=](spdlog::level::level_enum level, const std::string& text) {
        line(opaque, exported(level), text.c_str());
      });
    }
    return {};
  });
}

}  // extern "C"
