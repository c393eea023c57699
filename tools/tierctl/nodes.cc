// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/nodes.h"

#include <charconv>
#include <cstdlib>

#include "tools/common/failure.h"
#include "tools/tierctl/field_text.h"

namespace tierctl {
namespace {

constexpr std::chrono::seconds kSecondsMax = std::chrono::hours(24);

// Adds what the policies did to the nodes. A QEMU that has none is no error.
void add_moves(Json& nodes, const pcow::Result<Json>& policies) {
  if (!policies) {
    if (policies.error().code == pcow::Code::kUnsupported) return;
    throw tools::Failure(policies.error().message);
  }
  const Json known = tools::value_or_fail(select_nodes(*policies, ""));
  for (Json& node : nodes) {
    for (const Json& policy : known) {
      const auto moves = policy.find("moves");
      if (text_field(policy, "id") == text_field(node, "id") && moves != policy.end()) {
        node["moves"] = *moves;
      }
    }
  }
}

}  // namespace

std::chrono::milliseconds parse_seconds(const std::string& option, const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  const double max = static_cast<double>(kSecondsMax.count());
  if (error != std::errc() || stop != end || !(value >= 0.001 && value <= max)) {
    throw tools::UsageError(option + " must be a number of seconds, from 0.001 to 86400, not '" +
                            text + "'");
  }
  return std::chrono::milliseconds(static_cast<int64_t>(value * 1000));
}

uint64_t parse_count(const std::string& option, const std::string& text) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value == 0) {
    throw tools::UsageError(option + " must be a number from 1 on, not '" + text + "'");
  }
  return value;
}

NodeArguments::NodeArguments(const std::string& verb, const std::string& summary,
                             std::chrono::seconds default_timeout, Words words)
    : timeout(default_timeout), arguments_(verb, summary) {
  arguments_.value("--qmp", &socket,
                   "QMP socket of the guest (default: the environment variable TIERCTL_QMP)");
  arguments_.value(
      "--timeout", &timeout_text_,
      "Seconds to wait for an answer (default " + std::to_string(default_timeout.count()) + ")");
  arguments_.output(&output);
  if (words == Words::kNode) {
    arguments_.positional("NODE", &node, "Id of one pcow node (default: all)");
    return;
  }
  if (words == Words::kNoNode) return;
  if (words == Words::kOneNode) {
    arguments_.positional("NODE", &node, "Id of a pcow node", "expecting the id of a pcow node");
    return;
  }
  arguments_.positional("NAME", &name,
                        "Name of the snapshot, then ids of pcow nodes (default: all)",
                        "expecting the name of a snapshot");
  arguments_.extra_words(&nodes);
}

bool NodeArguments::parse(const std::vector<std::string>& args) {
  if (!arguments_.parse(args)) return false;
  if (!timeout_text_.empty()) timeout = parse_seconds("--timeout", timeout_text_);
  if (socket.empty()) {
    const char* from_environment = std::getenv("TIERCTL_QMP");
    if (from_environment != nullptr) socket = from_environment;
  }
  if (socket.empty()) {
    throw tools::UsageError(
        "which guest? Give its QMP socket with --qmp SOCKET or in TIERCTL_QMP (QEMU makes one with "
        "-qmp unix:SOCKET,server=on,wait=off)");
  }
  return true;
}

pcow::Result<Json> select_nodes(const Json& nodes, const std::string& id) {
  if (!nodes.is_array()) {
    return pcow::make_error(pcow::Code::kForeign, "QEMU did not answer with a list of nodes");
  }
  std::string known;
  Json selected = Json::array();
  for (const Json& node : nodes) {
    if (!node.is_object()) {
      return pcow::make_error(pcow::Code::kForeign, "QEMU listed a node that is not an object");
    }
    const std::string node_id = text_field(node, "id").value_or("");
    known += (known.empty() ? "" : ", ") + node_id;
    if (id.empty() || id == node_id) selected.push_back(node);
  }
  if (!id.empty() && selected.empty()) {
    return pcow::make_error(pcow::Code::kNotFound,
                            "the guest has no pcow node '" + id + "'" +
                                (known.empty() ? ", nor any other" : "; it has: " + known));
  }
  return selected;
}

void expect_node(QmpClient& client, const NodeArguments& arguments, const std::string& id) {
  if (id.empty()) return;
  const Json all =
      tools::value_or_fail(client.execute("query-pcow", Json::object(), arguments.timeout));
  tools::value_or_fail(select_nodes(all, id));
}

Json query_nodes(QmpClient& client, const NodeArguments& arguments) {
  const Json all =
      tools::value_or_fail(client.execute("query-pcow", Json::object(), arguments.timeout));
  Json nodes = tools::value_or_fail(select_nodes(all, arguments.node));
  add_moves(nodes, client.execute("query-pcow-policy", Json::object(), arguments.timeout));
  return nodes;
}

void check_choice(const char* what, const std::string& value, std::span<const char* const> names) {
  std::string known;
  for (const char* name : names) {
    if (value == name) return;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  throw tools::UsageError("there is no " + std::string(what) + " '" + value + "': choose one of " +
                          known);
}

std::optional<Pauses> pauses_of(const Json& node) {
  const Json& epochs = field_object(node, "epochs");
  const auto list = epochs.find("pauses");
  if (list == epochs.end() || !list->is_array()) return std::nullopt;
  Pauses pauses;
  for (const Json& bucket : *list) {
    if (!bucket.is_object()) continue;
    pauses[number_field(bucket, "up-to-ns").value_or(0)] +=
        number_field(bucket, "count").value_or(0);
  }
  return pauses;
}

std::optional<uint64_t> stored_bytes(const Json& node) {
  const auto causes = node.find("stored");
  if (causes == node.end() || !causes->is_object()) return std::nullopt;
  uint64_t total = 0;
  for (const auto& [cause, bytes] : causes->items()) {
    total += number_field(*causes, cause).value_or(0);
  }
  return total;
}

std::optional<uint64_t> number_field(const Json& object, const std::string& key) {
  const auto field = object.find(key);
  if (field == object.end() || !field->is_number_integer()) return std::nullopt;
  if (!field->is_number_unsigned() && field->get<int64_t>() < 0) return std::nullopt;
  return field->get<uint64_t>();
}

std::optional<uint64_t> number_within(const Json& node, const char* object, const char* key) {
  return number_field(object == nullptr ? node : field_object(node, object), key);
}

std::optional<std::string> text_field(const Json& object, const std::string& key) {
  const auto field = object.find(key);
  if (field == object.end() || !field->is_string()) return std::nullopt;
  return field->get<std::string>();
}

}  // namespace tierctl
