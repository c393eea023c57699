// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/status.h>
#include <functional>
#include <thread>

namespace tiering {

// Starts a thread with all signals blocked: the host's are not for it. `name`: 15 characters at
// most. Errors: kNoMemory.
pcow::Result<std::thread> start_thread(const char* name, std::function<void()> run);

}  // namespace tiering
