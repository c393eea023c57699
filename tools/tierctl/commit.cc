// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

// While devices have memory mapped for direct access, a commit keeps all of it in DRAM.
std::string dma_note(const Json& node) {
  const uint64_t maps = number_field(node, "dma-maps").value_or(0);
  return maps == 0 ? "" : " (none can be while devices map the memory)";
}

void print_human(const Json& nodes) {
  if (nodes.empty()) std::printf("The guest has no pcow nodes.\n");
  for (const Json& node : nodes) {
    std::printf(
        "%s: epoch %s is durable: %s pages written, %s zero, %s demoted%s; guest paused for %s\n",
        field_text(node, "id").c_str(), field_count(node, "epoch").c_str(),
        field_count(node, "written-pages").c_str(), field_count(node, "zero-pages").c_str(),
        field_count(node, "demoted-pages").c_str(), dma_note(node).c_str(),
        field_time(node, "pause-ns").c_str());
  }
}

}  // namespace

int run_commit(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl commit",
                          "Stores every dirty page of the guest's pcow nodes into their images and "
                          "makes them durable. Returns when that is done.",
                          std::chrono::seconds(600));
  if (!arguments.parse(args)) return tools::kExitOk;

  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  Json command_arguments = Json::object();
  expect_node(client, arguments, arguments.node);
  if (!arguments.node.empty()) command_arguments["id"] = arguments.node;
  const Json committed =
      tools::value_or_fail(client.execute("pcow-commit", command_arguments, arguments.timeout));
  const Json nodes = tools::value_or_fail(select_nodes(committed, arguments.node));
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
  } else {
    print_human(nodes);
  }
  return tools::kExitOk;
}

}  // namespace tierctl
