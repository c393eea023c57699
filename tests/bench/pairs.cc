// SPDX-License-Identifier: BSD-3-Clause
#include "tests/bench/pairs.h"

#include <time.h>

#include <algorithm>

namespace bench {

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

Pairs measure_pairs(double seconds, const std::function<double()>& value,
                    const std::function<double()>& peer, size_t least) {
  std::vector<double> values;
  std::vector<double> peers;
  std::vector<double> ratios;
  const auto start = Clock::now();
  while (values.size() < least || seconds_since(start) < seconds) {
    const bool value_first = values.size() % 2 == 0;
    double a = 0;
    double b = 0;
    if (value_first) a = value();
    b = peer();
    if (!value_first) a = value();
    values.push_back(a);
    peers.push_back(b);
    ratios.push_back(a / b);
  }
  return {median(values), median(peers), median(ratios), values.size()};
}

}  // namespace bench
