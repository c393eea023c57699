// SPDX-License-Identifier: BSD-3-Clause
//
// The log of the library: what a person who runs guests should know and no call returns.
#pragma once

#include <spdlog/logger.h>

namespace tiering {

// Lines "tiering: warning: …" on standard error. Thread-safe.
spdlog::logger& log();

}  // namespace tiering
