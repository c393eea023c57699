// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl events: what QEMU tells of its pcow nodes, as it happens.
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <string_view>

#include "pcow/base/printable.h"
#include "tools/common/date_text.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

constexpr std::string_view kPrefix = "PCOW_";

// "epoch-error" for "PCOW_EPOCH_ERROR".
std::string name_of(std::string event) {
  event.erase(0, kPrefix.size());
  std::ranges::transform(event, event.begin(), [](char c) {
    return c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  return event;
}

bool is_wanted(const Json& event, const std::string& node) {
  if (!text_field(event, "event").value_or("").starts_with(kPrefix)) return false;
  return node.empty() || text_field(field_object(event, "data"), "id") == node;
}

std::string time_of(const Json& event) {
  constexpr uint64_t kNsPerSecond = 1'000'000'000;
  const auto seconds = number_field(field_object(event, "timestamp"), "seconds");
  if (!seconds || *seconds > ~uint64_t{0} / kNsPerSecond) return "-";
  return tools::date_text(*seconds * kNsPerSecond);
}

// "2026-11-20 16:52:44 pm0 epoch-error: no space left (ended: false)"
std::string line_of(const Json& event) {
  const Json& data = field_object(event, "data");
  std::string line = time_of(event);
  if (const auto id = text_field(data, "id")) line += " " + *id;
  line += " " + name_of(text_field(event, "event").value_or("")) + ":";
  if (const auto message = text_field(data, "message")) line += " " + *message;
  std::string more;
  for (const auto& [key, value] : data.items()) {
    if (key == "id" || key == "message") continue;
    const auto text = text_field(data, key);
    more += (more.empty() ? "" : ", ") + key + ": " + (text ? *text : tools::json_text(value, -1));
  }
  if (!more.empty()) line += " (" + more + ")";
  return pcow::printable(line);
}

}  // namespace

int run_events(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl events",
                          "Prints what QEMU tells of the pcow nodes of a running guest, as it "
                          "happens, until it is interrupted or the guest ends.",
                          std::chrono::seconds(10));
  std::string count_text;
  arguments.more().value("--count", &count_text, "End after so many events");
  if (!arguments.parse(args)) return tools::kExitOk;
  uint64_t left = count_text.empty() ? 0 : parse_count("--count", count_text);

  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  expect_node(client, arguments, arguments.node);
  for (;;) {
    const Json event = tools::value_or_fail(client.next_event());
    if (!is_wanted(event, arguments.node)) continue;
    const bool human = arguments.output == tools::Output::kHuman;
    const std::string line = human ? line_of(event) : tools::json_text(event, -1);
    if (std::printf("%s\n", line.c_str()) < 0 || std::fflush(stdout) != 0) return tools::kExitOk;
    if (left > 0 && --left == 0) return tools::kExitOk;
  }
}

}  // namespace tierctl
