// SPDX-License-Identifier: BSD-3-Clause
#pragma once

namespace test {

// The seed of a randomised test: $PCOW_TEST_SEED, or a new one; printed, so that a failure can be
// replayed.
unsigned long test_seed();

// How long a random history should be whose usual length is `steps`: so much divided by
// $PCOW_HISTORY_DIVISOR, for machines that are slow.
int history_length(int steps);

}  // namespace test
