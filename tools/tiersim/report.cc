// SPDX-License-Identifier: BSD-3-Clause
#include "tools/tiersim/report.h"

#include <cinttypes>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/common/failure.h"
#include "tools/common/json_text.h"

namespace tiersim {
namespace {

// Of the lines that the stores would write to PM.
double share_of_stores(const Section& section, uint64_t lines) {
  if (section.stores.lines == 0) return 0;
  return static_cast<double>(lines) / static_cast<double>(section.stores.lines);
}

double share_of_optimum(const Section& section, const Row& row) {
  const double optimum = section.rows.back().score.hit_ratio();
  return optimum == 0 ? 0 : row.score.hit_ratio() / optimum;
}

void print_section(const Section& section) {
  std::printf("%s: %" PRIu64 " pages, DRAM %" PRIu64 " (high %" PRIu64 ", low %" PRIu64
              "), %" PRIu64 " moves an epoch, epochs %" PRIu64 " to %" PRIu64 "\n",
              section.trace.c_str(), section.pages, section.budget.limit_pages,
              section.budget.high_pages, section.budget.low_pages, section.budget.move_pages,
              section.epochs - section.counted, section.epochs - 1);
  std::printf("  %-8s %7s %8s %10s %10s %9s %9s %10s %9s %9s %9s\n", "", "hits", "of best",
              "migrations", "promoted", "demoted", "faults", "PM lines", "of stores", "throttled",
              "ping-pong");
  for (const Row& row : section.rows) {
    const Score& s = row.score;
    std::printf("  %-8s %7.4f %8.4f %10" PRIu64 " %10" PRIu64 " %9" PRIu64 " %9" PRIu64
                " %10" PRIu64 " %9.4f %9" PRIu64 " %9" PRIu64 "\n",
                row.name.c_str(), s.hit_ratio(), share_of_optimum(section, row), s.migrations(),
                s.promotions, s.demotions, s.faults, s.pm_lines,
                share_of_stores(section, s.pm_lines), s.throttled, s.ping_pongs);
  }
  std::printf("  %" PRIu64 " stores write %" PRIu64
              " lines if all go to PM; persistence=epoch: log %" PRIu64 ", checkpoints %" PRIu64
              ", %.4f of stores\n",
              section.stores.stores, section.stores.lines, section.stores.log_lines,
              section.stores.checkpoint_lines,
              share_of_stores(section, section.stores.log_lines + section.stores.checkpoint_lines));
  for (const Row& row : section.rows) {
    if (!row.violation.empty()) {
      std::printf("  %s breaks a rule, %s\n", row.name.c_str(), row.violation.c_str());
    }
  }
  std::printf("\n");
}

nlohmann::ordered_json to_json(const Section& section, const Row& row) {
  const Score& s = row.score;
  return {{"policy", row.name},
          {"hit-ratio", s.hit_ratio()},
          {"share-of-optimum", share_of_optimum(section, row)},
          {"accesses", s.accesses},
          {"hits", s.hits},
          {"migrations", s.migrations()},
          {"promotions", s.promotions},
          {"demotions", s.demotions},
          {"faults", s.faults},
          {"pm-lines", s.pm_lines},
          {"share-of-stores", share_of_stores(section, s.pm_lines)},
          {"throttled", s.throttled},
          {"ping-pongs", s.ping_pongs},
          {"resident-max", s.resident_max},
          {"violation", row.violation.empty() ? nlohmann::ordered_json(nullptr)
                                              : nlohmann::ordered_json(row.violation)}};
}

nlohmann::ordered_json to_json(const Section& section) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Row& row : section.rows) rows.push_back(to_json(section, row));
  return {{"trace", section.trace},
          {"pages", section.pages},
          {"epochs", section.epochs},
          {"counted-epochs", section.counted},
          {"limit-pages", section.budget.limit_pages},
          {"high-pages", section.budget.high_pages},
          {"low-pages", section.budget.low_pages},
          {"move-pages", section.budget.move_pages},
          {"stores", section.stores.stores},
          {"store-lines", section.stores.lines},
          {"epoch-log-lines", section.stores.log_lines},
          {"epoch-checkpoint-lines", section.stores.checkpoint_lines},
          {"epoch-share-of-stores",
           share_of_stores(section, section.stores.log_lines + section.stores.checkpoint_lines)},
          {"policies", rows}};
}

}  // namespace

int report(const std::vector<Section>& sections, uint64_t seed, tools::Output output) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  uint64_t violations = 0;
  std::string ratios;
  for (const Section& section : sections) {
    if (output == tools::Output::kHuman) print_section(section);
    if (output == tools::Output::kJson) list.push_back(to_json(section));
    for (const Row& row : section.rows) {
      if (!row.violation.empty()) ++violations;
      char text[96];
      std::snprintf(text, sizeof text, "%.4f", row.score.hit_ratio());
      ratios += " " + section.trace + "_" + row.name + "=" + text;
    }
  }
  if (output == tools::Output::kJson) std::printf("%s\n", tools::json_text(list).c_str());
  std::printf("RESULT %s mode=modelled seed=%" PRIu64 " traces=%zu violations=%" PRIu64 "%s\n",
              violations == 0 ? "ok" : "failed", seed, sections.size(), violations, ratios.c_str());
  return violations == 0 ? tools::kExitOk : tools::kExitError;
}

}  // namespace tiersim
