// SPDX-License-Identifier: BSD-3-Clause
//
// Pages that wait for their turn, first come, first served, in pieces of any size.
#pragma once

#include <tiering/residency.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tiering {

class RunQueue {
 public:
  RunQueue() = default;
  explicit RunQueue(std::vector<PageRun> runs) : runs_(std::move(runs)) {
    for (const PageRun& run : runs_) pages_ += run.count;
  }

  uint64_t pages() const { return pages_; }
  void clear() { *this = RunQueue(); }

  // Behind the others. Throws std::bad_alloc: nothing was added.
  void append(const std::vector<PageRun>& runs) {
    runs_.insert(runs_.end(), runs.begin(), runs.end());
    for (const PageRun& run : runs) pages_ += run.count;
  }

  // The first pages, up to so many. Throws std::bad_alloc: nothing was taken.
  std::vector<PageRun> take(uint64_t pages_max) {
    std::vector<PageRun> taken;
    size_t next = next_;
    for (uint64_t left = std::min(pages_max, pages_); left > 0; ++next) {
      taken.push_back(runs_[next]);
      taken.back().count = std::min(left, taken.back().count);
      left -= taken.back().count;
    }
    for (const PageRun& run : taken) {
      pages_ -= run.count;
      PageRun& front = runs_[next_];
      front = {front.first + run.count, front.count - run.count};
      if (front.count == 0) ++next_;
    }
    if (pages_ == 0) clear();
    return taken;
  }

 private:
  std::vector<PageRun> runs_;
  size_t next_ = 0;
  uint64_t pages_ = 0;
};

}  // namespace tiering
