// SPDX-License-Identifier: BSD-3-Clause
//
// The log of the library: what a person who runs guests should know and no call returns.
#pragma once

#include <spdlog/logger.h>
#include <exception>
#include <functional>
#include <string>

namespace tiering {

// Lines "tiering: warning: …" on standard error, of the logger's level and above: warnings, unless
// somebody sets another. Thread-safe.
spdlog::logger& log();

// For a line that is not worth failing for: calls write(log()), and takes what that throws.
template <typename Fn>
void log_if_possible(const Fn& write) noexcept {
  try {
    write(log());
  } catch (const std::exception&) {  // no memory for the line
  }
}

// Gets the same lines, without "tiering: warning: ", in whatever thread logs; must not log itself.
// In place of the one before; null: none.
using LogListener = std::function<void(spdlog::level::level_enum level, const std::string& line)>;
void set_log_listener(LogListener listener);

}  // namespace tiering
