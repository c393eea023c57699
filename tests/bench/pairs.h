// SPDX-License-Identifier: BSD-3-Clause
//
// Paired, interleaved measuring: on a noisy machine the ratio of two neighbouring runs says more
// than two averages.
#pragma once

#include <chrono>
#include <functional>
#include <vector>

namespace bench {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Processor time of this thread: what other processes take does not count.
double thread_seconds();

double median(std::vector<double> values);  // REQUIRES: not empty

struct Pairs {
  double value = 0;  // medians of the single runs
  double peer = 0;
  double ratio = 0;  // median of the ratios of neighbouring runs
  size_t count = 0;
};

// Runs `value` and `peer` in turns, changing who goes first, for about `seconds` and at least so
// many times: less than nine for what takes minutes. Each returns its own measure (time per
// operation).
Pairs measure_pairs(double seconds, const std::function<double()>& value,
                    const std::function<double()>& peer, size_t least = 9);

// A small, fast, seeded generator (xorshift64*).
class Random {
 public:
  explicit Random(unsigned long seed) : state_(seed * 0x9e3779b97f4a7c15 + 1) {}
  unsigned long next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1d;
  }

 private:
  unsigned long state_;
};

}  // namespace bench
