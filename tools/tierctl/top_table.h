// SPDX-License-Identifier: BSD-3-Clause
//
// What a node did between two looks at it.
#pragma once

#include <chrono>
#include <string>

#include "tools/tierctl/qmp_client.h"

namespace tierctl {

// Of the nodes as query_nodes() returned them, for each that is in both: its id, what it has now,
// and rates in bytes, or numbers, a second. What QEMU does not tell is left out.
// REQUIRES: elapsed > 0.
Json activity_of(const Json& before, const Json& now, std::chrono::duration<double> elapsed);

// For people: a line of titles, and one for each node.
std::string top_titles();
std::string top_lines(const Json& activity);

}  // namespace tierctl
