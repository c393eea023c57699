// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "tests/torture/shared_state.h"

namespace torture {

// One life of the process that is killed: opens the image, checks that memory is what `shared`
// says, stores into it with all threads and makes epochs as fast as possible, until it is killed or
// told to quit; then it commits and closes. `with_device`: also by DMA. Exit status: 0 it quit, 3 a
// violation, or a failure, which `shared` has.
[[noreturn]] void run_session(const std::string& path, SharedState& shared, uint64_t seed,
                              bool with_device);

}  // namespace torture
