// SPDX-License-Identifier: BSD-3-Clause
//
// tierctl explain: where pages are, and why.
#include <pcow/units.h>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>

#include "pcow/base/printable.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/tierctl/commands.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

struct Pages {
  uint64_t first = 0;
  uint64_t count = 1;
};

// Decimal, or hexadecimal with 0x.
std::optional<uint64_t> parse_number(std::string_view text) {
  const bool hex = text.starts_with("0x") || text.starts_with("0X");
  if (hex) text.remove_prefix(2);
  uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value, hex ? 16 : 10);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// "7", "7-9" or "7+3".
Pages parse_pages(const std::string& text) {
  const size_t sign = text.find_first_of("-+");
  const auto first = parse_number(std::string_view(text).substr(0, sign));
  std::optional<uint64_t> count = 1;
  if (sign != std::string::npos) {
    count = parse_number(std::string_view(text).substr(sign + 1));
    if (text[sign] == '-' && count && first) {
      count = *count >= *first ? std::optional(*count - *first + 1) : std::nullopt;
    }
  }
  constexpr uint64_t kMax = ~uint64_t{0} / pcow::kPageSize;
  if (!first || !count || *count == 0 || *count > kMax || *first > kMax - *count) {
    throw tools::UsageError("expecting a page of 4 KiB, or a range of them (7, 7-9, 7+3), not '" +
                            text + "'");
  }
  return {*first, *count};
}

bool flag(const Json& object, const char* key) {
  const auto field = object.find(key);
  return field != object.end() && *field == Json(true);
}

std::string place_of(const Json& run) {
  std::string place = text_field(run, "place").value_or("?");
  if (place == "image") place = "in the image";
  if (place == "dram") place = "in DRAM";
  if (place == "hole") place = "nowhere (zeros)";
  if (flag(run, "dirty")) place += ", not in the image yet";
  if (flag(run, "pinned")) place += ", in use by a device";
  return pcow::printable(place);
}

std::string heat_of(const Json& run) {
  const auto heat = run.find("heat");
  if (heat == run.end() || !heat->is_object()) return "no access seen";
  const auto number = [&](const char* key) { return number_field(*heat, key); };
  std::string text = "used in ";
  const auto share = number("per-mille");
  text += share ? std::to_string(*share / 10) + "." + std::to_string(*share % 10) : "?";
  text += flag(*heat, "written") ? " % of the steps, last written " : " % of the steps, last read ";
  const auto idle = number("idle");
  text += idle ? (*idle == 0 ? "just now" : std::to_string(*idle) + " steps ago") : "at some time";
  const auto cool_down = number("cool-down");
  if (cool_down.value_or(0) > 0) {
    text += ", moved, and stays for " + std::to_string(*cool_down) + " steps";
  }
  return text;
}

// What the policy made of it, for people; an unknown word as it is.
std::string reason_of(const Json& run) {
  const auto verdict = text_field(run, "verdict");
  if (!verdict) return "nothing was decided";
  if (*verdict == "belongs") return "belongs there";
  if (*verdict == "policy-still") return "the policy moves nothing";
  if (*verdict == "promoted") return "goes to DRAM";
  if (*verdict == "demoted") return "leaves DRAM";
  if (*verdict == "forced") return "leaves DRAM, because the limit demands it";
  if (*verdict == "cool-down") return "would move, but has just been moved";
  if (*verdict == "pinned") {
    return flag(run, "pinned") || !flag(run, "dirty")
               ? "would leave DRAM, but was in use"
               : "would leave DRAM, but is not in the image yet";
  }
  if (*verdict == "rate") return "would move, but the migration rate was used up";
  if (*verdict == "no-colder-page")
    return "would come to DRAM, but no page there is colder by enough";
  return pcow::printable(*verdict);
}

void check_pages(const Json& runs) {
  const auto has_pages = [](const Json& run) {
    return number_field(run, "offset") &&
           number_field(run, "length").value_or(0) >= pcow::kPageSize;
  };
  if (!runs.is_array() || runs.empty() || !std::all_of(runs.begin(), runs.end(), has_pages)) {
    throw tools::Failure("QEMU did not answer with pages");
  }
}

// REQUIRES: check_pages().
void print_human(const Json& runs) {
  for (const Json& run : runs) {
    const uint64_t first = number_field(run, "offset").value_or(0) / pcow::kPageSize;
    const uint64_t count = number_field(run, "length").value_or(0) / pcow::kPageSize;
    const std::string pages =
        count == 1 ? "page " + std::to_string(first)
                   : "pages " + std::to_string(first) + "-" + std::to_string(first + count - 1);
    std::printf("%s: %s; %s; %s\n", pages.c_str(), place_of(run).c_str(), heat_of(run).c_str(),
                reason_of(run).c_str());
  }
}

}  // namespace

int run_explain(const std::vector<std::string>& args) {
  NodeArguments arguments("tierctl explain",
                          "Tells where pages of a pcow node are, how they are used, and what the "
                          "tiering policy makes of that.",
                          std::chrono::seconds(10), NodeArguments::Words::kOneNode);
  std::string range;
  arguments.more().positional("PAGES", &range, "A page of 4 KiB, or a range: 7, 7-9, 7+3",
                              "expecting a page, or a range of pages");
  if (!arguments.parse(args)) return tools::kExitOk;
  const Pages pages = parse_pages(range);

  auto client = tools::value_or_fail(QmpClient::connect(arguments.socket, arguments.timeout));
  expect_node(client, arguments, arguments.node);
  const Json wanted = {{"id", arguments.node},
                       {"offset", pages.first * pcow::kPageSize},
                       {"length", pages.count * pcow::kPageSize}};
  const Json runs = tools::value_or_fail(client.execute("pcow-explain", wanted, arguments.timeout));
  check_pages(runs);
  if (arguments.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(runs).c_str());
  } else {
    print_human(runs);
  }
  return tools::kExitOk;
}

}  // namespace tierctl
