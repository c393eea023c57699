// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl metrics: what QEMU tells of its pcow nodes, for Prometheus and the like.
#include "tools/tierctl/metrics_text.h"

#include <cstdio>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {

int run_metrics(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl metrics",
                          "Prints what QEMU tells of the pcow nodes of a running guest as "
                          "OpenMetrics text, for Prometheus and the like.",
                          std::chrono::seconds(10));
  if (!arguments.parse(args)) return tools::kExitOk;
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  const Json nodes = query_nodes(client, arguments);
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
  } else {
    const std::string text = metrics_text(nodes);
    std::fwrite(text.data(), 1, text.size(), stdout);  // an id may hold any character
  }
  return tools::kExitOk;
}

}  // namespace tierctl
