// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "tools/tierctl/qmp_client.h"

namespace tierctl {

// What query_nodes() returned as a table for people: a line for each property, a column for each
// node. A field that this QEMU does not report is shown as "-"; lines about something that no node
// has are left out.
std::string status_table(const Json& nodes);

}  // namespace tierctl
