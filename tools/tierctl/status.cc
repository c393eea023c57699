// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/nodes.h"
#include "tools/tierctl/status_table.h"

namespace tierctl {

int run_status(const std::vector<std::string>& args) {
  NodeArguments arguments(
      "tierctl status", "Shows the pcow nodes of a running guest: image, tiers, mappings, epochs.",
      std::chrono::seconds(10));
  if (!arguments.parse(args)) return tools::kExitOk;

  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  const Json nodes = query_nodes(client, arguments);
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
  } else if (nodes.empty()) {
    std::printf("The guest has no pcow nodes.\n");
  } else {
    std::fputs(status_table(nodes).c_str(), stdout);
  }
  return tools::kExitOk;
}

}  // namespace tierctl
