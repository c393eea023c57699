// SPDX-License-Identifier: BSD-3-Clause
#include <array>
#include <cstdio>

#include "pcow/base/printable.h"
#include "tools/common/date_text.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/common/program.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

constexpr std::chrono::seconds kTimeout(600);

// What a command about named snapshots takes. Asks for the nodes first, so that a wrong name is
// answered with the right ones.
Json command_arguments(QmpClient& client, const NodeArguments& arguments, const char* name_key) {
  Json result = Json::object();
  result[name_key] = arguments.name;
  if (arguments.nodes.empty()) return result;
  const Json all =
      tools::value_or_fail(client.execute("query-pcow", Json::object(), arguments.timeout));
  for (const std::string& node : arguments.nodes) tools::value_or_fail(select_nodes(all, node));
  result["ids"] = arguments.nodes;
  return result;
}

int create(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl snapshot create",
                          "Makes the content of the guest's pcow nodes durable and keeps it as a "
                          "snapshot in their images: that of one moment. The guest goes on.",
                          kTimeout, NodeArguments::Words::kNameAndNodes);
  if (!arguments.parse(args)) return tools::kExitOk;
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  const Json wanted = command_arguments(client, arguments, "snapshot");
  const Json nodes = tools::value_or_fail(client.execute("pcow-commit", wanted, arguments.timeout));
  tools::value_or_fail(select_nodes(nodes, ""));
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
    return tools::kExitOk;
  }
  if (nodes.empty()) std::printf("The guest has no pcow nodes.\n");
  for (const Json& node : nodes) {
    std::printf("%s: snapshot '%s' keeps epoch %s; guest paused for %s\n",
                field_text(node, "id").c_str(), pcow::printable(arguments.name).c_str(),
                field_count(node, "epoch").c_str(), field_time(node, "pause-ns").c_str());
  }
  return tools::kExitOk;
}

void print_snapshots(const Json& node) {
  std::printf("%s:", field_text(node, "node").c_str());
  const auto list = node.find("snapshots");
  const bool any = list != node.end() && list->is_array() && !list->empty();
  if (any) {
    std::printf("\n%-8s%-24s%14s%12s%21s%8s\n", "ID", "TAG", "VIRTUAL SIZE", "OWN DATA", "DATE",
                "EPOCH");
  } else {
    std::printf(" no snapshots\n");
  }
  for (size_t i = 0; any && i < list->size(); ++i) {
    const Json& snapshot = (*list)[i];
    if (!snapshot.is_object()) continue;
    const auto created_ns = number_field(snapshot, "created-ns");
    std::printf("%-8s%-24s%14s%12s%21s%8s\n", field_count(snapshot, "id").c_str(),
                field_text(snapshot, "name").c_str(), field_size(snapshot, "size").c_str(),
                field_size(snapshot, "allocated").c_str(),
                created_ns ? tools::date_text(*created_ns).c_str() : "-",
                field_count(snapshot, "epoch").c_str());
  }
  if (const auto error = text_field(node, "deletion-error")) {
    std::printf("The space of a deleted snapshot is not given back yet: %s\n",
                pcow::printable(*error).c_str());
  } else if (node.value("deleting", Json(false)) == Json(true)) {
    std::printf("The space of a deleted snapshot is being given back.\n");
  }
}

int list(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl snapshot list",
                          "Lists the snapshots in the images of the guest's pcow nodes.",
                          std::chrono::seconds(10));
  if (!arguments.parse(args)) return tools::kExitOk;
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  Json wanted = Json::object();
  expect_node(client, arguments, arguments.node);
  if (!arguments.node.empty()) wanted["id"] = arguments.node;
  const Json nodes =
      tools::value_or_fail(client.execute("query-pcow-snapshots", wanted, arguments.timeout));
  tools::value_or_fail(select_nodes(nodes, ""));
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
    return tools::kExitOk;
  }
  if (nodes.empty()) std::printf("The guest has no pcow nodes.\n");
  for (const Json& node : nodes) print_snapshots(node);
  return tools::kExitOk;
}

int remove(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl snapshot delete",
                          "Deletes a snapshot in the images of the guest's pcow nodes. It is gone "
                          "when this returns; its space is given back while the guest runs.",
                          kTimeout, NodeArguments::Words::kNameAndNodes);
  if (!arguments.parse(args)) return tools::kExitOk;
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  const Json wanted = command_arguments(client, arguments, "name");
  const Json result =
      tools::value_or_fail(client.execute("pcow-delete-snapshot", wanted, arguments.timeout));
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(result).c_str());
  }
  return tools::kExitOk;
}

constexpr const char* kUsage =
    "Usage: tierctl snapshot create [OPTIONS] NAME [NODE...]\n"
    "       tierctl snapshot list [OPTIONS] [NODE]\n"
    "       tierctl snapshot delete [OPTIONS] NAME [NODE...]\n"
    "\n"
    "Keeps the content of a guest's pcow nodes under a name, while it runs.\n"
    "'tierctl snapshot create --help' and so on list the options.\n";

constexpr std::array kSubcommands = {tools::Subcommand{"create", create},
                                     tools::Subcommand{"list", list},
                                     tools::Subcommand{"delete", remove}};

}  // namespace

int run_snapshot(const std::vector<std::string>& args) {
  return tools::run_subcommand(kSubcommands, kUsage, args);
}

}  // namespace tierctl
