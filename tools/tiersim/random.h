// SPDX-License-Identifier: BSD-3-Clause
//
// Random numbers that are the same with every standard library (its distributions are not).
#pragma once

#include <cstdint>

namespace tiersim {

// SplitMix64's output function: scatters the bits of a number.
constexpr uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15); }
  // Evenly from [0, end). REQUIRES: 0 < end < 2^32.
  uint64_t below(uint64_t end) { return (next() >> 32) * end >> 32; }
  // Evenly from [0, 1).
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

}  // namespace tiersim
