// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/epoch_interval.h"

#include <algorithm>
#include <string>

namespace tiering {

namespace {

// Of a store to a page that is armed; on the slow side of what machines take.
constexpr std::chrono::nanoseconds kFault{1000};

}  // namespace

pcow::Result<void> EpochInterval::check(const IntervalOptions& options) {
  if (options.min <= std::chrono::nanoseconds(0) || options.max < options.min) {
    const auto ms = [](std::chrono::nanoseconds time) {
      return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count());
    };
    return pcow::make_error(pcow::Code::kInvalid,
                            "epochs of " + ms(options.min) + " to " + ms(options.max) +
                                " ms are not possible: the minimum has to be more than 0, the "
                                "maximum not less than the minimum");
  }
  if (options.overhead > 0 && options.overhead <= 1) return {};
  return pcow::make_error(pcow::Code::kInvalid,
                          "an overhead of " + std::to_string(options.overhead) +
                              " is not possible: use a share of more than 0, 1 at most");
}

void EpochInterval::update(const EpochCost& cost) {
  const std::chrono::duration<double, std::nano> spent =
      cost.pause + kFault * static_cast<int64_t>(cost.armed_pages);
  const double wanted =
      std::min(spent.count() / options_.overhead, static_cast<double>(options_.max.count()));
  const auto next = std::chrono::nanoseconds(static_cast<int64_t>(wanted));
  current_ = std::clamp(std::max(next, current_ / 2), options_.min, options_.max);
}

}  // namespace tiering
