// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl policy: what nodes keep in DRAM.
#include <pcow/image.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>

#include "pcow/base/printable.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/common/program.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

constexpr std::chrono::seconds kTimeout(10);

struct Policy {
  const char* name;
  const char* summary;
};

constexpr std::array kPolicies = {
    Policy{"off", "any clean pages leave DRAM, when there are more than its size"},
    Policy{"static", "the same, but it is observed which pages are used"},
    Policy{"age", "what has not been used for longest leaves, what is used comes"},
    Policy{"heat", "by how often pages are used, with hysteresis"},
    Policy{"cmq", "by a multi-queue of access counts, the published baseline"},
};

void print_policy(const Json& node) {
  std::printf(
      "%s: %s, at most %s in DRAM, pages leave above %s %% of it and come up to %s %%, %s/s\n",
      field_text(node, "id").c_str(), field_text(node, "policy").c_str(),
      field_size(node, "dram-size").c_str(), field_count(node, "high-percent").c_str(),
      field_count(node, "low-percent").c_str(), field_size(node, "migrate-rate").c_str());
}

void print_moves(const Json& node) {
  const auto moves = node.find("moves");
  if (moves == node.end() || !moves->is_object()) return;
  std::printf("  pages to DRAM: %s; from DRAM: %s, of these %s for the limit alone\n",
              field_count(*moves, "promoted-pages").c_str(),
              field_count(*moves, "demoted-pages").c_str(),
              field_count(*moves, "limit-demotions").c_str());
  std::printf(
      "  refused: cool-down %s, pinned %s, rate %s, no-colder-page %s, unmovable %s, failed %s\n",
      field_count(*moves, "refused-cool-down").c_str(),
      field_count(*moves, "refused-pinned").c_str(), field_count(*moves, "refused-rate").c_str(),
      field_count(*moves, "refused-no-colder-page").c_str(),
      field_count(*moves, "refused-unmovable").c_str(),
      field_count(*moves, "refused-failed").c_str());
  if (const auto failure = text_field(*moves, "last-failure")) {
    std::printf("  last failure: %s\n", pcow::printable(*failure).c_str());
  }
  std::printf("  reads seen: %s of %s pages that were unmapped, in %s chunks\n",
              field_count(*moves, "read-pages").c_str(),
              field_count(*moves, "unmapped-pages").c_str(),
              field_count(*moves, "watched-chunks").c_str());
  std::printf("  work: %s steps, %s failed, %s plans, %s; memory: %s\n",
              field_count(*moves, "steps").c_str(), field_count(*moves, "failed-steps").c_str(),
              field_count(*moves, "plans").c_str(), field_time(*moves, "busy-ns").c_str(),
              field_size(*moves, "tracker").c_str());
}

// Of one node, or of all.
pcow::Result<Json> query(QmpClient& client, const NodeArguments& arguments) {
  Json wanted = Json::object();
  if (!arguments.node.empty()) wanted["id"] = arguments.node;
  PCOW_TRY_ASSIGN(const Json nodes, client.execute("query-pcow-policy", wanted, arguments.timeout));
  return select_nodes(nodes, arguments.node);
}

void print(const Json& nodes, tools::Output output, bool with_moves) {
  if (output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(nodes).c_str());
    return;
  }
  if (nodes.empty()) std::printf("The guest has no pcow nodes.\n");
  for (const Json& node : nodes) {
    print_policy(node);
    if (with_moves) print_moves(node);
  }
}

// A size that is not zero.
uint64_t parse_bytes(const std::string& option, const std::string& text) {
  const pcow::Result<uint64_t> size = pcow::parse_size(text);
  if (!size) throw tools::UsageError(option + ": " + size.error().message);
  if (*size == 0) throw tools::UsageError(option + " must not be 0");
  return *size;
}

// "95%", or "95".
uint64_t parse_percent(const std::string& option, const std::string& text) {
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  if (!text.empty() && text.back() == '%') --end;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 1 || value > 100) {
    throw tools::UsageError(option + " must be from 1% to 100%, not '" + text + "'");
  }
  return value;
}

// "500M", or "500M/s".
uint64_t parse_rate(const std::string& option, std::string text) {
  if (text.size() > 2 && text.ends_with("/s")) text.resize(text.size() - 2);
  return parse_bytes(option, text);
}

void check_policy(const std::string& name) {
  std::array<const char*, kPolicies.size()> names{};
  std::ranges::transform(kPolicies, names.begin(), &Policy::name);
  check_choice("policy", name, names);
}

int set(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl policy set",
                          "Changes what a pcow node of a running guest keeps in DRAM. What is not "
                          "given stays as it is; all of it changes, or nothing.",
                          kTimeout, NodeArguments::Words::kOneNode);
  std::string policy;
  std::string dram_size;
  std::string high;
  std::string low;
  std::string rate;
  arguments.more().positional("POLICY", &policy, "'tierctl policy list' has them");
  arguments.more().value("--dram-size", &dram_size, "DRAM for copies of pages, at most, like 2G");
  arguments.more().value("--high", &high, "Pages leave above this share of it, like 95%");
  arguments.more().value("--low", &low, "... down to this, and come up to this, like 85%");
  arguments.more().value("--migrate-rate", &rate, "What moves in a second, at most, like 500M");
  if (!arguments.parse(args)) return tools::kExitOk;

  Json wanted = {{"id", arguments.node}};
  if (!policy.empty()) {
    check_policy(policy);
    wanted["policy"] = policy;
  }
  if (!dram_size.empty()) wanted["dram-size"] = parse_bytes("--dram-size", dram_size);
  if (!high.empty()) wanted["high-percent"] = parse_percent("--high", high);
  if (!low.empty()) wanted["low-percent"] = parse_percent("--low", low);
  if (!rate.empty()) wanted["migrate-rate"] = parse_rate("--migrate-rate", rate);
  if (wanted.size() == 1) throw tools::UsageError("expecting a policy, or an option that changes");

  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  expect_node(client, arguments, arguments.node);
  tools::value_or_fail(client.execute("pcow-set-policy", wanted, arguments.timeout));
  const pcow::Result<Json> nodes = query(client, arguments);
  if (!nodes) {
    throw tools::Failure("the policy of '" + arguments.node +
                         "' was set, but cannot be shown: " + nodes.error().message);
  }
  print(*nodes, arguments.output, false);
  return tools::kExitOk;
}

int get(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl policy get",
                          "Shows what the pcow nodes of a running guest keep in DRAM, and what was "
                          "moved for that.",
                          kTimeout);
  if (!arguments.parse(args)) return tools::kExitOk;
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  expect_node(client, arguments, arguments.node);
  print(tools::value_or_fail(query(client, arguments)), arguments.output, true);
  return tools::kExitOk;
}

int list(const std::vector<std::string>& args) {
  tools::Output output = tools::Output::kHuman;
  tools::Arguments arguments("tierctl policy list", "Lists the policies that a node can follow.");
  arguments.output(&output);
  if (!arguments.parse(args)) return tools::kExitOk;
  Json all = Json::array();
  for (const Policy& policy : kPolicies) {
    all.push_back({{"policy", policy.name}, {"summary", policy.summary}});
    if (output == tools::Output::kHuman) std::printf("%-8s%s\n", policy.name, policy.summary);
  }
  if (output == tools::Output::kJson) std::printf("%s\n", tools::json_text(all).c_str());
  return tools::kExitOk;
}

constexpr const char* kUsage =
    "Usage: tierctl policy set [OPTIONS] NODE [POLICY]\n"
    "       tierctl policy get [OPTIONS] [NODE]\n"
    "       tierctl policy list [OPTIONS]\n"
    "\n"
    "Chooses what a guest's pcow nodes keep in DRAM, while it runs.\n"
    "'tierctl policy set --help' and so on list the options.\n";

constexpr std::array kSubcommands = {tools::Subcommand{"set", set}, tools::Subcommand{"get", get},
                                     tools::Subcommand{"list", list}};

}  // namespace

int run_policy(const std::vector<std::string>& args) {
  return tools::run_subcommand(kSubcommands, kUsage, args);
}

}  // namespace tierctl
