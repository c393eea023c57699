// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "tools/tierctl/qmp_client.h"

namespace tierctl {

// What query-pcow returned as a table for people: a line for each property, a column for each node.
// A field that this QEMU does not report is shown as "-".
std::string status_table(const Json& nodes);

// "1.25 ms", for a time in nanoseconds.
std::string format_time(uint64_t time_ns);

}  // namespace tierctl
