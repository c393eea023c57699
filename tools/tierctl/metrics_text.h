// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <string>

#include "tools/tierctl/qmp_client.h"

namespace tierctl {

// What query_nodes() returned as OpenMetrics text. Throws tools::Failure for what is no node, or
// has nothing to measure.
// Specification: https://prometheus.io/docs/specs/om/open_metrics_spec/
std::string metrics_text(const Json& nodes);

}  // namespace tierctl
