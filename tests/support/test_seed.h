// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace test {

// The seed of a randomised test: $PCOW_TEST_SEED, or a new one; printed, so that a failure can be
// replayed.
unsigned long test_seed();

}  // namespace test
