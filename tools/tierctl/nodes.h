// SPDX-License-Identifier: BSD-3-Clause
//
// The pcow nodes of a running guest, and the options that every verb takes to reach them.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/common/arguments.h"
#include "tools/tierctl/qmp_client.h"

namespace tierctl {

// --qmp, --timeout, --output and [NODE], or NODE, or nothing; or, of a verb about something that
// has a name, NAME [NODE...].
class NodeArguments {
 public:
  enum class Words { kNode, kOneNode, kNoNode, kNameAndNodes };
  NodeArguments(const std::string& verb, const std::string& summary,
                std::chrono::seconds default_timeout, Words words = Words::kNode);

  // For what else the verb takes, words behind the node.
  tools::Arguments& more() { return arguments_; }

  // Returns false when --help was asked for. Throws tools::UsageError.
  bool parse(const std::vector<std::string>& args);

  std::string socket;  // --qmp, or the environment variable TIERCTL_QMP
  std::string node;    // empty: all
  std::string name;
  std::vector<std::string> nodes;  // with a name; empty: all
  tools::Output output = tools::Output::kHuman;
  std::chrono::milliseconds timeout;

 private:
  tools::Arguments arguments_;
  std::string timeout_text_;
};

// The object with this id among `nodes`, which is what query-pcow or pcow-commit returned; all of
// them when the id is empty. Errors: kNotFound (the message lists what there is), kForeign (not a
// list of objects).
pcow::Result<Json> select_nodes(const Json& nodes, const std::string& id);

// Fails unless the guest has the node: so a wrong name is answered with the right ones. With an
// empty id nothing is asked.
void expect_node(QmpClient& client, const NodeArguments& arguments, const std::string& id);

// Asks for the nodes that the arguments name. Where a QEMU tells what policies did, it is "moves"
// of the node.
Json query_nodes(QmpClient& client, const NodeArguments& arguments);

// What the node has stored to its medium, for whatever; nothing where QEMU does not tell.
std::optional<uint64_t> stored_bytes(const Json& node);

// The values of options, which messages name. Throw tools::UsageError.
std::chrono::milliseconds parse_seconds(const std::string& option, const std::string& text);
uint64_t parse_count(const std::string& option, const std::string& text);

// Of a value that must be one of `names`; `what` it is: "policy". Throws tools::UsageError.
void check_choice(const char* what, const std::string& value, std::span<const char* const> names);

// How long barriers of the node took: how many, by the longest that they may be, in nanoseconds.
// Nothing where QEMU does not tell.
using Pauses = std::map<uint64_t, uint64_t>;
std::optional<Pauses> pauses_of(const Json& node);

// A field that QEMU may not have (yet): nothing when absent or of another type.
std::optional<uint64_t> number_field(const Json& object, const std::string& key);
// The same of an object in it, or, where that is null, of itself.
std::optional<uint64_t> number_within(const Json& node, const char* object, const char* key);
std::optional<std::string> text_field(const Json& object, const std::string& key);

}  // namespace tierctl
