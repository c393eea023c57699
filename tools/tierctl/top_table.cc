// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/top_table.h"

#include <pcow/size_text.h>
#include <pcow/units.h>
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

// A counter of a node that becomes a rate.
struct Rate {
  const char* name;
  const char* object;  // within the node; null: the node itself
  const char* field;
  uint64_t unit = 1;
};

constexpr std::array kRates = {
    Rate{"changed", nullptr, "changed"},
    Rate{"promoted", "moves", "promoted-pages", pcow::kPageSize},
    Rate{"demoted", "moves", "demoted-pages", pcow::kPageSize},
    Rate{"epochs", "epochs", "epochs"},
    Rate{"held-ns", "epochs", "held-ns"},
};

const Json* node_with(const Json& nodes, const std::optional<std::string>& id) {
  const auto node = std::find_if(nodes.begin(), nodes.end(),
                                 [&](const Json& other) { return text_field(other, "id") == id; });
  return node == nodes.end() ? nullptr : &*node;
}

// Of counters that only grow: one that is less now is another guest's.
std::optional<uint64_t> growth(std::optional<uint64_t> before, std::optional<uint64_t> now) {
  if (!before || !now || *now < *before) return std::nullopt;
  return *now - *before;
}

// Of the pauses in between.
std::optional<uint64_t> longest_of_most(const Json& before, const Json& now, double share) {
  const Pauses old = pauses_of(before).value_or(Pauses());
  Pauses fresh;
  uint64_t total = 0;
  for (const auto& [up_to, count] : pauses_of(now).value_or(Pauses())) {
    const auto known = old.find(up_to);
    const uint64_t more = count - std::min(count, known == old.end() ? 0 : known->second);
    if (more > 0) fresh[up_to] = more;
    total += more;
  }
  uint64_t seen = 0;
  for (const auto& [up_to, count] : fresh) {
    seen += count;
    if (static_cast<double>(seen) >= share * static_cast<double>(total)) return up_to;
  }
  return std::nullopt;
}

uint64_t rounded(double value) {
  constexpr double kMax = 1e18;  // nothing that is measured
  return static_cast<uint64_t>(std::llround(std::min(value, kMax)));
}

Json activity_of_node(const Json& before, const Json& now, double seconds) {
  Json activity = {{"id", text_field(now, "id").value_or("")}};
  for (const char* field : {"dram-resident", "dram-size", "dirty"}) {
    if (const auto value = number_field(now, field)) activity[field] = *value;
  }
  if (const auto hits = number_within(now, "moves", "hit-per-mille")) {
    activity["hit-per-mille"] = *hits;
  }
  const auto add_rate = [&](const std::string& name, std::optional<uint64_t> grown) {
    if (grown) activity[name + "-per-s"] = rounded(static_cast<double>(*grown) / seconds);
  };
  add_rate("stored", growth(stored_bytes(before), stored_bytes(now)));
  for (const Rate& rate : kRates) {
    const auto grown = growth(number_within(before, rate.object, rate.field),
                              number_within(now, rate.object, rate.field));
    add_rate(rate.name, grown ? std::optional(*grown * rate.unit) : std::nullopt);
  }
  if (const auto pause = longest_of_most(before, now, 0.99)) activity["pause-p99-ns"] = *pause;
  return activity;
}

std::string padded(const std::string& text, size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

std::string share(const Json& activity) {
  const auto used = number_field(activity, "dram-resident");
  const auto limit = number_field(activity, "dram-size");
  if (!used || limit.value_or(0) == 0) return "-";
  return std::to_string(rounded(100.0 * static_cast<double>(*used) / static_cast<double>(*limit))) +
         " %";
}

std::string per_cent(const Json& activity, const char* key, double one_percent) {
  const auto value = number_field(activity, key);
  if (!value) return "-";
  return std::to_string(rounded(static_cast<double>(*value) / one_percent)) + " %";
}

struct Column {
  const char* title;
  size_t width;
  std::string (*cell)(const Json& activity);
};

constexpr std::array kColumns = {
    Column{"DRAM", 10, [](const Json& a) { return field_size(a, "dram-resident"); }},
    Column{"of limit", 8, share},
    Column{"hits", 5, [](const Json& a) { return per_cent(a, "hit-per-mille", 10); }},
    Column{"dirty", 10, [](const Json& a) { return field_size(a, "dirty"); }},
    Column{"changed/s", 10, [](const Json& a) { return field_size(a, "changed-per-s"); }},
    Column{"stored/s", 10, [](const Json& a) { return field_size(a, "stored-per-s"); }},
    Column{"to DRAM/s", 10, [](const Json& a) { return field_size(a, "promoted-per-s"); }},
    Column{"from DRAM/s", 11, [](const Json& a) { return field_size(a, "demoted-per-s"); }},
    Column{"epochs/s", 8, [](const Json& a) { return field_count(a, "epochs-per-s"); }},
    Column{"pause p99", 9, [](const Json& a) { return field_time(a, "pause-p99-ns"); }},
    Column{"held", 5, [](const Json& a) { return per_cent(a, "held-ns-per-s", 1e7); }},
};

constexpr size_t kNameWidth = 12;

std::string name_column(std::string name) {
  if (name.size() < kNameWidth) name.append(kNameWidth - name.size(), ' ');
  return name;
}

}  // namespace

Json activity_of(const Json& before, const Json& now, std::chrono::duration<double> elapsed) {
  Json all = Json::array();
  for (const Json& node : now) {
    const Json* const then = node_with(before, text_field(node, "id"));
    if (then != nullptr) all.push_back(activity_of_node(*then, node, elapsed.count()));
  }
  return all;
}

std::string top_titles() {
  std::string line = name_column("node");
  for (const Column& column : kColumns) line += "  " + padded(column.title, column.width);
  return line + "\n";
}

std::string top_lines(const Json& activity) {
  std::string lines;
  for (const Json& node : activity) {
    lines += name_column(field_text(node, "id"));
    for (const Column& column : kColumns) lines += "  " + padded(column.cell(node), column.width);
    lines += "\n";
  }
  return lines;
}

}  // namespace tierctl
