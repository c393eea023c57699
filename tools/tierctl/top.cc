// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl top: what nodes do, again and again. It is not connected in between, for QEMU serves one
// client at a time.
#include <unistd.h>

#include <cstdio>
#include <thread>
#include <utility>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/nodes.h"
#include "tools/tierctl/top_table.h"

namespace tierctl {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kLinesUnderTitles = 20;
constexpr const char* kClear = "\033[H\033[J";  // ECMA-48: CUP, ED

struct Look {
  Json nodes;
  Clock::time_point time;
};

Look look(const NodeArguments& arguments) {
  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  Json nodes = query_nodes(client, arguments);
  if (nodes.empty()) throw tools::Failure("the guest has no pcow nodes");
  return {std::move(nodes), Clock::now()};
}

class Screen {
 public:
  explicit Screen(tools::Output output) : output_(output), terminal_(isatty(STDOUT_FILENO) == 1) {}

  // False: nobody reads it any more.
  bool show(const Json& activity) {
    std::string text;
    if (output_ == tools::Output::kJson) {
      text = tools::json_text(activity, -1) + "\n";
    } else {
      if (terminal_) text = kClear;
      if (terminal_ || lines_ % kLinesUnderTitles == 0) text += top_titles();
      text += top_lines(activity);
      ++lines_;
    }
    return std::fputs(text.c_str(), stdout) >= 0 && std::fflush(stdout) == 0;
  }

 private:
  const tools::Output output_;
  const bool terminal_;
  int lines_ = 0;
};

}  // namespace

int run_top(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl top",
                          "Shows what the pcow nodes of a running guest do, again and again, until "
                          "it is interrupted.",
                          std::chrono::seconds(10));
  std::string interval_text;
  std::string count_text;
  arguments.more().value("--interval", &interval_text, "Seconds from one to the next (default 1)");
  arguments.more().value("--count", &count_text, "End after so many times");
  if (!arguments.parse(args)) return tools::kExitOk;
  const std::chrono::milliseconds interval =
      interval_text.empty() ? std::chrono::seconds(1) : parse_seconds("--interval", interval_text);
  uint64_t left = count_text.empty() ? 0 : parse_count("--count", count_text);

  Screen screen(arguments.output);
  Look before = look(arguments);
  for (;;) {
    std::this_thread::sleep_until(before.time + interval);
    Look now = look(arguments);
    if (!screen.show(activity_of(before.nodes, now.nodes, now.time - before.time))) break;
    if (left > 0 && --left == 0) break;
    before = std::move(now);
  }
  return tools::kExitOk;
}

}  // namespace tierctl
