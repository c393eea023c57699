// SPDX-License-Identifier: BSD-3-Clause
//
// tierbench: measures what the project claims, against the peer it claims it over, in the same run.
#include <cpuid.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <exception>
#include <random>
#include <string>

#include "tests/bench/benchmarks.h"

namespace {

constexpr double kSeconds = 10;
constexpr double kQuickSeconds = 2;

// "tcg" when the processor is QEMU's emulation, where times mean little.
std::string detect_mode() {
  std::array<unsigned, 4> words{};
  __cpuid(0x40000000, words[0], words[1], words[2], words[3]);
  std::array<char, 12> vendor{};
  std::memcpy(vendor.data(), words.data() + 1, vendor.size());
  const bool tcg = std::string_view(vendor.data(), vendor.size()) == "TCGTCGTCGTCG";
  return tcg ? "tcg" : "native";
}

int list_breaks() {
  for (const bench::Break& broken : bench::kBreaks) {
    std::printf("%-16s %-12s %s\n", broken.name, broken.benchmark, broken.what);
  }
  return 0;
}

bool is_break_of(const std::string& name, const std::string& benchmark) {
  return std::ranges::any_of(bench::kBreaks, [&](const bench::Break& broken) {
    return name == broken.name && benchmark == broken.benchmark;
  });
}

int run(int argc, char** argv) {
  bench::Options options;
  options.medium = "/dev/shm";
  options.seed = std::random_device{}();
  std::string mode = detect_mode();
  bool json = false;
  bool listing = false;
  CLI::App app{
      "Measures regions of pcow memory against their peers. Exit status: 0 all bounds "
      "kept, 1 a bound missed or an error, 2 wrong usage."};
  app.add_option("--seed", options.seed, "seed of the random accesses");
  app.add_option("--seconds", options.seconds, "time per row (default 10, with --quick 2)");
  app.add_flag("--quick", options.quick, "less memory and shorter rows");
  app.add_option("--medium", options.medium, "directory for the files")->capture_default_str();
  app.add_option("--mode", mode, "where this runs, for the rows")
      ->check(CLI::IsMember({"native", "tcg", "lab", "modelled"}))
      ->capture_default_str();
  app.add_flag("--json", json, "one JSON object a row");
  app.add_flag("--list-breaks", listing, "list the broken variants");
  app.add_option("--break", options.broken, "run a broken variant: a bound must be missed");
  app.fallthrough();
  const auto add = [&](const char* name, const char* what) {
    return app.add_subcommand(name, what);
  };
  CLI::App* access = add("access", "random 8-byte reads and writes");
  CLI::App* first_touch = add("first-touch", "the first store to a page");
  CLI::App* first_write = add("first-write", "the first write of pages, by how they get space");
  CLI::App* open = add("open", "opening and closing a 1 TiB image");
  CLI::App* snapshot = add("snapshot", "creating snapshots, and opening an image with 1,000");
  CLI::App* stripe = add("stripe", "writing to stripe sets, and the mappings they cost");
  CLI::App* epoch_log = add("epoch-log", "epochs through the log, and their recovery");
  CLI::App* epochs = add("epochs", "what epochs cost a guest: throughput, pauses, tracking");
  try {
    app.parse(argc, argv);
    if (listing) return list_breaks();
    const auto chosen = app.get_subcommands();
    if (chosen.size() != 1) throw CLI::CallForHelp();
    if (!options.broken.empty() && !is_break_of(options.broken, chosen[0]->get_name())) {
      throw CLI::ValidationError(
          "--break", "no such variant of " + chosen[0]->get_name() + "; see --list-breaks");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (options.seconds <= 0) options.seconds = options.quick ? kQuickSeconds : kSeconds;
  bench::Report report(mode, json);
  if (access->parsed()) bench::run_access(options, report);
  if (first_touch->parsed()) bench::run_first_touch(options, report);
  if (first_write->parsed()) bench::run_first_write(options, report);
  if (open->parsed()) bench::run_open(options, report);
  if (snapshot->parsed()) bench::run_snapshot(options, report);
  if (stripe->parsed()) bench::run_stripe(options, report);
  if (epoch_log->parsed()) bench::run_epoch_log(options, report);
  if (epochs->parsed()) bench::run_epochs(options, report);
  return report.finish(options.seed);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tierbench: %s\n", error.what());
    std::printf("RESULT failed error=1\n");
    return 1;
  }
}
