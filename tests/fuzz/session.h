// SPDX-License-Identifier: BSD-3-Clause
//
// What a writer does to a sound image, and what has to show afterwards.
#pragma once

#include <pcow/image.h>
#include <cstdint>

#include "tests/fuzz/read_image.h"

namespace fuzz {

// Opens the image for writing, does what `choice` (0 … 7) says, and closes it. Requires that all of
// it works. `views` is what the image shows, before and after; what a write changes is read again.
void write_session(const std::string& path, uint8_t choice, Views& views);

}  // namespace fuzz
