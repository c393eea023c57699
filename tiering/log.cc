// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <memory>

namespace tiering {

spdlog::logger& log() {
  // Not in spdlog's global registry: the host program may use that for itself.
  static spdlog::logger logger("tiering", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  static const bool kSet = (logger.set_pattern("%n: %l: %v"), true);
  (void)kSet;
  return logger;
}

}  // namespace tiering
