// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace tiering {

// The lowest `capacity` keys of a stream, in time linear in the stream and memory of twice the
// capacity. Throws std::bad_alloc.
class BestKeys {
 public:
  explicit BestKeys(uint64_t capacity) : capacity_(static_cast<size_t>(capacity)) {}

  void offer(uint64_t key) {
    if (key >= bound_ || capacity_ == 0) return;
    keys_.push_back(key);
    if (keys_.size() >= 2 * capacity_) prune();
  }

  // Ascending; the stream ends here.
  std::vector<uint64_t> take() && {
    prune();
    std::ranges::sort(keys_);
    return std::move(keys_);
  }

 private:
  void prune() {
    if (keys_.size() <= capacity_) return;
    const auto end = keys_.begin() + static_cast<std::ptrdiff_t>(capacity_);
    std::ranges::nth_element(keys_, end - 1);
    bound_ = *(end - 1);
    keys_.erase(end, keys_.end());
  }

  size_t capacity_;
  uint64_t bound_ = std::numeric_limits<uint64_t>::max();  // a key from here on is not among them
  std::vector<uint64_t> keys_;
};

}  // namespace tiering
