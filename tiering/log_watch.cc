// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/log_watch.h"

#include <algorithm>

namespace tiering {

namespace {

// So fast several CPUs may make pages dirty; one fault takes three times as long or more.
constexpr std::chrono::nanoseconds kDirtyingTime{250};

// Sleeping for less is not possible; and more often is not worth what it costs an idle guest's
// host.
constexpr std::chrono::nanoseconds kPauseMin = std::chrono::microseconds(50);
constexpr std::chrono::nanoseconds kPauseMax = std::chrono::milliseconds(4);

}  // namespace

uint64_t LogWatch::dirty_bound(uint64_t faults) const {
  const uint64_t since = faults - std::min(faults, look_.faults);
  const uint64_t rest = look_.pages_max - std::min(look_.pages_max, look_.dirty_pages);
  return look_.dirty_pages + std::min(since, rest);
}

std::chrono::nanoseconds LogWatch::pause(uint64_t faults) const {
  const uint64_t bound = dirty_bound(faults);
  const uint64_t line = bound <= third() ? third() : 2 * third();
  const auto left =
      static_cast<int64_t>(std::min<uint64_t>(line - std::min(line, bound), 1U << 30));
  return std::clamp(kDirtyingTime * left, kPauseMin, kPauseMax);
}

}  // namespace tiering
