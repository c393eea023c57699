// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl log-level: how much QEMU logs of its pcow nodes, and tells as events.
#include <array>
#include <cstdio>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

constexpr std::array<const char*, 5> kLevels = {"debug", "info", "warning", "error", "off"};

}  // namespace

int run_log_level(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl log-level",
                          "Shows what QEMU logs of the pcow nodes of a running guest, on its "
                          "standard error and as events; or sets that.",
                          std::chrono::seconds(10), NodeArguments::Words::kNoNode);
  std::string level;
  arguments.more().positional("LEVEL", &level,
                              "debug, info, warning, error or off: that, and what is worse");
  if (!arguments.parse(args)) return tools::kExitOk;
  if (!level.empty()) check_choice("log level", level, kLevels);

  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  if (!level.empty()) {
    const Json wanted = {{"level", level}};
    tools::value_or_fail(client.execute("pcow-set-log-level", wanted, arguments.timeout));
  }
  const Json now = tools::value_or_fail(
      client.execute("query-pcow-log-level", Json::object(), arguments.timeout));
  if (!now.is_object()) throw tools::Failure("QEMU did not answer with a log level");
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(now).c_str());
  } else {
    std::printf("%s\n", field_text(now, "level").c_str());
  }
  return tools::kExitOk;
}

}  // namespace tierctl
