// SPDX-License-Identifier: BSD-3-Clause
//
// How durations are distributed, within one eighth of each, in constant space.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace tiering {

class Histogram {
 public:
  void record(uint64_t value) {
    ++buckets_.at(bucket_of(value));
    ++count_;
    sum_ += value;
    max_ = std::max(max_, value);
  }
  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }
  uint64_t sum() const { return sum_; }
  // What at least this share (0 .. 1) of the values does not exceed, rounded up by an eighth at
  // most; 0 without values.
  uint64_t quantile(double share) const {
    const auto wanted = static_cast<uint64_t>(std::llround(share * static_cast<double>(count_)));
    uint64_t seen = 0;
    for (size_t i = 0; i < buckets_.size(); ++i) {
      seen += buckets_.at(i);
      if (seen > 0 && seen >= wanted) return std::min(max_, upper_bound(i));
    }
    return max_;
  }
  // Calls fn(upper, count) for the values that have upper as their bound, where there are any;
  // ascending.
  template <typename Fn>
  void for_each(const Fn& fn) const {
    for (size_t i = 0; i < buckets_.size(); ++i) {
      if (buckets_.at(i) > 0) fn(std::min(max_, upper_bound(i)), buckets_.at(i));
    }
  }

 private:
  static constexpr unsigned kSubBits = 3;  // 8 buckets for each power of two
  static constexpr size_t kSub = size_t{1} << kSubBits;

  static size_t bucket_of(uint64_t value) {
    if (value < kSub) return value;
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - 1 - kSubBits;
    return (shift + 1) * kSub + (value >> shift) % kSub;
  }
  static uint64_t upper_bound(size_t bucket) {
    if (bucket < kSub) return bucket;
    const size_t shift = bucket / kSub - 1;
    return ((kSub + bucket % kSub + 1) << shift) - 1;
  }

  std::array<uint64_t, (64 - kSubBits + 1) * kSub> buckets_{};
  uint64_t count_ = 0;
  uint64_t sum_ = 0;
  uint64_t max_ = 0;
};

}  // namespace tiering
