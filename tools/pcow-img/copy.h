// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "tools/common/progress.h"
#include "tools/common/signal_hold.h"
#include "tools/pcow-img/content.h"
#include "tools/pcow-img/writer.h"

namespace pcow_img {

// Copies all of `from`. With `hold`, throws tools::Failure as soon as one of its signals is
// pending.
void copy_content(const Content& from, Writer& to, tools::Progress& progress,
                  const tools::SignalHold* hold);

// Copies a stream up to its end, which may be anywhere in a page. Returns the bytes read. Throws as
// above, also while it waits for input.
uint64_t copy_stream(int from, Writer& to, const tools::SignalHold* hold);

}  // namespace pcow_img
