// SPDX-License-Identifier: BSD-3-Clause
#include "tests/bench/report.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

namespace bench {
namespace {

std::string number(const std::optional<double>& value, int digits) {
  if (!value) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, *value);
  return text;
}

// "read, 4 KiB pages" → "read_4_KiB_pages", for the RESULT line.
std::string key(const std::string& name) {
  std::string result;
  for (const char c : name) {
    const bool word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (word) {
      result += c;
    } else if (!result.empty() && result.back() != '_') {
      result += '_';
    }
  }
  return result;
}

nlohmann::ordered_json to_json(const Row& row, const std::string& mode) {
  const auto optional = [](const std::optional<double>& value) {
    return value ? nlohmann::ordered_json(*value) : nlohmann::ordered_json(nullptr);
  };
  return {{"name", row.name},
          {"mode", mode},
          {"value", row.value},
          {"unit", row.unit},
          {"peer",
           row.peer.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(row.peer)},
          {"peer_value", optional(row.peer_value)},
          {"ratio", optional(row.ratio)},
          {"bound", optional(row.bound)},
          {"ok", row.ok()},
          {"note", row.note}};
}

}  // namespace

void Report::add(Row row) {
  if (json_) {
    std::printf("%s\n", to_json(row, mode_).dump().c_str());
    std::fflush(stdout);
  }
  rows_.push_back(std::move(row));
}

int Report::finish(unsigned long seed) const {
  if (!json_) {
    std::printf("%-52s %10s %-6s %10s %8s %8s  %-4s %s\n", "", "value", "unit", "peer", "ratio",
                "bound", "", "compared with");
    for (const Row& row : rows_) {
      std::printf("%-52s %10.3f %-6s %10s %8s %8s  %-4s %s\n", row.name.c_str(), row.value,
                  row.unit.c_str(), number(row.peer_value, 3).c_str(), number(row.ratio, 4).c_str(),
                  number(row.bound, 4).c_str(),
                  !row.bound ? ""
                  : row.ok() ? "ok"
                             : "MISS",
                  row.peer.c_str());
    }
    for (const Row& row : rows_) {
      if (!row.note.empty()) std::printf("%s: %s\n", row.name.c_str(), row.note.c_str());
    }
  }
  const auto missed = std::ranges::count_if(rows_, [](const Row& row) { return !row.ok(); });
  std::printf("RESULT %s mode=%s seed=%lu rows=%zu missed=%td", missed == 0 ? "ok" : "failed",
              mode_.c_str(), seed, rows_.size(), missed);
  for (const Row& row : rows_) {
    if (row.bound) std::printf(" %s=%.4g", key(row.name).c_str(), row.ratio.value_or(row.value));
  }
  std::printf("\n");
  return missed == 0 ? 0 : 1;
}

}  // namespace bench
