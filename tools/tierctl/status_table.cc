// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tierctl/status_table.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>
#include <vector>

#include "pcow/base/printable.h"
#include "tools/tierctl/field_text.h"
#include "tools/tierctl/nodes.h"

namespace tierctl {
namespace {

struct Row {
  const char* title;
  std::string (*cell)(const Json& object);
  // What of the node the cell is about: null: all of it; else the line is left out where no node
  // has that.
  const char* object = nullptr;
};

std::string chunks(const Json& states) {
  std::string line;
  for (const char* state : {"hole", "cached", "huge", "direct"}) {
    line += (line.empty() ? "" : ", ") + field_count(states, state) + " " + state;
  }
  return line;
}

// Of what was stored to the medium by cause, or refused by reason.
std::string parts(const Json& object, std::string (*text)(const Json&, const char*),
                  const char* prefix = "") {
  std::string line;
  const std::string_view start = prefix;
  for (const auto& [key, value] : object.items()) {
    if (!key.starts_with(start) || number_field(object, key).value_or(0) == 0) continue;
    line += (line.empty() ? "" : ", ") + text(object, key.c_str()) + " " +
            pcow::printable(key.substr(start.size()));
  }
  return line.empty() ? "nothing" : line;
}

// By bytes of the pages that the guest stored to.
std::string amplification(const Json& node) {
  const auto stored = stored_bytes(node);
  const auto changed = number_field(node, "changed");
  if (!stored || changed.value_or(0) == 0) return "-";
  std::array<char, 32> digits{};
  std::snprintf(digits.data(), digits.size(), "%.2f",
                static_cast<double>(*stored) / static_cast<double>(*changed));
  return digits.data();
}

std::string per_mille(const Json& object, const char* key) {
  const auto value = number_field(object, key);
  return value ? std::to_string(*value / 10) + "." + std::to_string(*value % 10) + " %" : "-";
}

constexpr std::array kRows = {
    Row{"node", [](const Json& n) { return field_text(n, "id"); }},
    Row{"image", [](const Json& n) { return field_text(n, "mem-path"); }},
    Row{"uuid", [](const Json& n) { return field_text(n, "uuid"); }},
    Row{"persistence", [](const Json& n) { return field_text(n, "persistence"); }},
    Row{"tier policy", [](const Json& n) { return field_text(n, "tier-policy"); }},
    Row{"medium", [](const Json& n) { return field_text(n, "medium"); }},
    Row{"tracker", [](const Json& n) { return field_text(n, "tracker"); }},
    Row{"virtual size", [](const Json& n) { return field_size(n, "size"); }},
    Row{"allocated", [](const Json& n) { return field_size(n, "allocated"); }},
    Row{"disk size", [](const Json& n) { return field_size(n, "disk"); }},
    Row{"DRAM limit", [](const Json& n) { return field_size(n, "dram-size"); }},
    Row{"DRAM resident", [](const Json& n) { return field_size(n, "dram-resident"); }},
    Row{"DRAM hits", [](const Json& m) { return per_mille(m, "hit-per-mille"); }, "moves"},
    Row{"dirty", [](const Json& n) { return field_size(n, "dirty"); }},
    Row{"chunks", chunks, "chunks"},
    Row{"mappings",
        [](const Json& n) {
          return field_count(n, "mappings") + " of " + field_count(n, "mapping-budget");
        }},
    Row{"DMA mappings", [](const Json& n) { return field_count(n, "dma-maps"); }},
    Row{"epoch", [](const Json& n) { return field_count(n, "epoch"); }},
    Row{"commits", [](const Json& n) { return field_count(n, "commits"); }},
    Row{"epochs",
        [](const Json& e) {
          return field_count(e, "epochs") + ", " + field_count(e, "early") + " early, " +
                 field_count(e, "restarts") + " restarted, " + field_count(e, "failed") + " failed";
        },
        "epochs"},
    Row{"epoch interval", [](const Json& e) { return field_count(e, "interval-ms") + " ms"; },
        "epochs"},
    Row{"barrier pauses",
        [](const Json& e) {
          return "p50 " + field_time(e, "pause-p50-ns") + ", p99 " + field_time(e, "pause-p99-ns") +
                 ", max " + field_time(e, "pause-max-ns");
        },
        "epochs"},
    Row{"guest held",
        [](const Json& e) {
          return field_count(e, "holds") + " times, " + field_time(e, "held-ns");
        },
        "epochs"},
    Row{"written", [](const Json& n) { return field_size(n, "written"); }},
    Row{"stored", [](const Json& s) { return parts(s, field_size); }, "stored"},
    Row{"write amplification", amplification},
    Row{"promoted pages", [](const Json& m) { return field_count(m, "promoted-pages"); }, "moves"},
    Row{"demoted pages",
        [](const Json& n) {
          const auto by_commits = number_field(n, "demoted-pages");
          const auto at_epochs = number_within(n, "moves", "demoted-pages");
          if (!by_commits && !at_epochs) return std::string("-");
          return std::to_string(by_commits.value_or(0) + at_epochs.value_or(0));
        }},
    Row{"refused moves", [](const Json& m) { return parts(m, field_count, "refused-"); }, "moves"},
    Row{"last pause", [](const Json& n) { return field_time(n, "last-pause-ns"); }},
};

bool has_object(const Json& node, const char* key) {
  const auto field = node.find(key);
  return field != node.end() && field->is_object();
}

std::string cell_of(const Row& row, const Json& node) {
  if (row.object == nullptr) return row.cell(node);
  return has_object(node, row.object) ? row.cell(node[row.object]) : "-";
}

void append_padded(std::string* line, const std::string& cell, size_t width) {
  *line += cell;
  line->append(width - cell.size() + 2, ' ');
}

}  // namespace

std::string status_table(const Json& nodes) {
  std::vector<std::vector<std::string>> columns(nodes.size() + 1);
  for (const Row& row : kRows) {
    if (row.object != nullptr && std::none_of(nodes.begin(), nodes.end(), [&](const Json& node) {
          return has_object(node, row.object);
        })) {
      continue;
    }
    columns.front().emplace_back(row.title);
    for (size_t i = 0; i < nodes.size(); ++i) {
      columns[i + 1].push_back(cell_of(row, nodes[i]));
    }
  }
  std::vector<size_t> widths;
  for (const auto& column : columns) {
    const auto longest =
        std::max_element(column.begin(), column.end(),
                         [](const auto& a, const auto& b) { return a.size() < b.size(); });
    widths.push_back(longest->size());
  }
  std::string table;
  for (size_t row = 0; row < columns.front().size(); ++row) {
    std::string line;
    for (size_t c = 0; c < columns.size(); ++c) append_padded(&line, columns[c][row], widths[c]);
    line.erase(line.find_last_not_of(' ') + 1);
    table += line + "\n";
  }
  return table;
}

}  // namespace tierctl
