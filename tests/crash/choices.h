// SPDX-License-Identifier: BSD-3-Clause
//
// Which crash states of a point are looked at: all of them if there are few, else a sample that
// contains the kinds of states in which mistakes show.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "tests/crash/write_back.h"

namespace crash {

using Random = std::mt19937_64;

struct ChoiceLimits {
  uint64_t exhaustive = 1024;  // at most so many combinations are enumerated
  size_t samples = 256;        // else about so many are drawn
};

struct Choices {
  std::vector<Choice> list;
  bool exhaustive = false;  // every combination of whole units; torn ones one unit at a time
};

Choices choose(WriteBack& write_back, const ChoiceLimits& limits, Random& random);

}  // namespace crash
