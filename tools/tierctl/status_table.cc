// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/status_table.h"

#include <pcow/image.h>
#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <vector>

#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

std::string text(const Json& node, const char* key) { return text_field(node, key).value_or("-"); }

std::string count(const Json& node, const char* key) {
  const auto value = number_field(node, key);
  return value ? std::to_string(*value) : "-";
}

std::string bytes(const Json& node, const char* key) {
  const auto value = number_field(node, key);
  return value ? pcow::format_size(*value) : "-";
}

std::string time(const Json& node, const char* key) {
  const auto value = number_field(node, key);
  return value ? format_time(*value) : "-";
}

std::string chunks(const Json& node) {
  const auto states = node.find("chunks");
  if (states == node.end() || !states->is_object()) return "-";
  std::string line;
  for (const char* state : {"hole", "cached", "huge", "direct"}) {
    line += (line.empty() ? "" : ", ") + count(*states, state) + " " + state;
  }
  return line;
}

struct Row {
  const char* title;
  std::string (*cell)(const Json& node);
};

constexpr std::array kRows = {
    Row{"node", [](const Json& n) { return text(n, "id"); }},
    Row{"image", [](const Json& n) { return text(n, "mem-path"); }},
    Row{"uuid", [](const Json& n) { return text(n, "uuid"); }},
    Row{"persistence", [](const Json& n) { return text(n, "persistence"); }},
    Row{"tier policy", [](const Json& n) { return text(n, "tier-policy"); }},
    Row{"medium", [](const Json& n) { return text(n, "medium"); }},
    Row{"tracker", [](const Json& n) { return text(n, "tracker"); }},
    Row{"virtual size", [](const Json& n) { return bytes(n, "size"); }},
    Row{"allocated", [](const Json& n) { return bytes(n, "allocated"); }},
    Row{"disk size", [](const Json& n) { return bytes(n, "disk"); }},
    Row{"DRAM limit", [](const Json& n) { return bytes(n, "dram-size"); }},
    Row{"DRAM resident", [](const Json& n) { return bytes(n, "dram-resident"); }},
    Row{"dirty", [](const Json& n) { return bytes(n, "dirty"); }},
    Row{"chunks", chunks},
    Row{"mappings",
        [](const Json& n) { return count(n, "mappings") + " of " + count(n, "mapping-budget"); }},
    Row{"DMA mappings", [](const Json& n) { return count(n, "dma-maps"); }},
    Row{"epoch", [](const Json& n) { return count(n, "epoch"); }},
    Row{"commits", [](const Json& n) { return count(n, "commits"); }},
    Row{"written", [](const Json& n) { return bytes(n, "written"); }},
    Row{"demoted pages", [](const Json& n) { return count(n, "demoted-pages"); }},
    Row{"last pause", [](const Json& n) { return time(n, "last-pause-ns"); }},
};

void append_padded(std::string* line, const std::string& cell, size_t width) {
  *line += cell;
  line->append(width - cell.size() + 2, ' ');
}

}  // namespace

std::string status_table(const Json& nodes) {
  std::vector<std::vector<std::string>> columns(1);
  for (const Row& row : kRows) columns.front().emplace_back(row.title);
  for (const Json& node : nodes) {
    std::vector<std::string>& column = columns.emplace_back();
    for (const Row& row : kRows) column.push_back(row.cell(node));
  }
  std::vector<size_t> widths;
  for (const auto& column : columns) {
    const auto longest =
        std::max_element(column.begin(), column.end(),
                         [](const auto& a, const auto& b) { return a.size() < b.size(); });
    widths.push_back(longest->size());
  }
  std::string table;
  for (size_t row = 0; row < kRows.size(); ++row) {
    std::string line;
    for (size_t c = 0; c < columns.size(); ++c) append_padded(&line, columns[c][row], widths[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

std::string format_time(uint64_t time_ns) {
  static constexpr std::array kUnits = {"ns", "us", "ms", "s"};
  double value = static_cast<double>(time_ns);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < kUnits.size()) {
    value /= 1000;
    ++unit;
  }
  std::array<char, 32> digits{};
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value,
                                          std::chars_format::general, value >= 1000 ? 6 : 3);
  return std::string(digits.data(), end) + " " + kUnits[unit];
}

}  // namespace tierctl
