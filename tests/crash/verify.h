// SPDX-License-Identifier: BSD-3-Clause
//
// Opens one crash state and compares it with what is allowed:
//   1. the checker finds no damage in it as it lies there, apart from what a crash may leave and
//      the next writable open mends: one torn superblock copy, of each file;
//   2. opening it for writing succeeds, and it is one of the expected models;
//   3. a sample, opened for reading with the log replayed in memory, shows the same;
//   4. closed, its snapshots keep what they should, and the checker finds no damage, and no leak
//   that reclaim_unowned() does not take back.
#pragma once

#include <pcow/image.h>
#include <optional>
#include <string>

#include "tests/crash/oracle.h"
#include "tests/crash/trace.h"

namespace crash {

struct Verdict {
  std::optional<std::string> wrong;
  std::optional<Found> found;  // if it could be opened
  Trace recovery;              // what opening it did to the medium
};

// Everything a user of the image can see.
pcow::Result<Found> look_at(const pcow::Image& image);

Verdict verify(MediumKind kind, const SparseBytes& state, const Expectation& expected);

}  // namespace crash
