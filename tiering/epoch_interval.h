// SPDX-License-Identifier: BSD-3-Clause
//
// How long an epoch should be: as short as the overhead allows, between a minimum and a maximum,
// which is what the user agrees to lose. A pure function of what epochs have cost.
#pragma once

#include <pcow/status.h>
#include <chrono>
#include <cstdint>

namespace tiering {

struct IntervalOptions {
  std::chrono::nanoseconds min = std::chrono::milliseconds(100);
  std::chrono::nanoseconds max = std::chrono::seconds(30);  // equal to min: a fixed interval
  double overhead = 0.02;  // share of the guest's time that epochs may cost, 0 < overhead <= 1
};

// What an epoch cost the guest.
struct EpochCost {
  std::chrono::nanoseconds pause{0};
  uint64_t armed_pages = 0;  // each faults at its next store
};

class EpochInterval {
 public:
  // REQUIRES: check(options).
  explicit EpochInterval(const IntervalOptions& options)
      : options_(options), current_(options.min) {}
  // Errors: kInvalid.
  static pcow::Result<void> check(const IntervalOptions& options);

  std::chrono::nanoseconds current() const { return current_; }
  // Grows at once, and shrinks by half at most, so that one idle epoch between busy ones does not
  // make the next one dear.
  void update(const EpochCost& cost);

 private:
  IntervalOptions options_;
  std::chrono::nanoseconds current_;
};

}  // namespace tiering
