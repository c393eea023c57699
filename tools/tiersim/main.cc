// SPDX-License-Identifier: BSD-3-Clause
//
// tiersim: runs the engine's tiering policies over access traces, beside baselines and the optimum.
#include <pcow/image.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>

#include "tools/common/failure.h"
#include "tools/common/program.h"
#include "tools/tiersim/generators.h"
#include "tools/tiersim/simulation.h"

namespace {

using tiering::PolicyKind;
using tiersim::Generator;
using tiersim::Section;
using tools::UsageError;

constexpr uint64_t kSize = 64 * pcow::kMiB;
constexpr uint64_t kQuickSize = 32 * pcow::kMiB;
constexpr uint64_t kEpochs = 400;
constexpr uint64_t kQuickEpochs = 120;

// As typed; empty: the default.
struct Words {
  std::string policy, dram_size, trace, generator, size, epochs, accesses, seed, high, low, rate,
      watched, window, cache, broken;
  bool quick = false;
  bool list_breaks = false;
  tools::Output output = tools::Output::kHuman;
};

void declare(tools::Arguments& arguments, Words& words) {
  arguments.value("--policy", &words.policy, "off, static, age, heat, cmq or all (default)");
  arguments.value("--trace", &words.trace, "Recorded trace: lines EPOCH r|w PAGE COUNT");
  arguments.value("--generate", &words.generator,
                  "Generated trace: zipf, scan, phase, sweep, mixed or all (default)");
  arguments.value("--size", &words.size, "Footprint of generated traces (default 64M)");
  arguments.value("--epochs", &words.epochs, "Epochs of generated traces (default 400)");
  arguments.value("--accesses", &words.accesses,
                  "Of generated traces, a page and epoch on average (default 8)");
  arguments.value("--seed", &words.seed, "Of everything random (default 1)");
  arguments.value("--dram-size", &words.dram_size, "DRAM (default a quarter of the footprint)");
  arguments.value("--high", &words.high, "High watermark, percent of DRAM (default 98)");
  arguments.value("--low", &words.low, "Low watermark, percent of DRAM (default 95)");
  arguments.value("--migrate-rate", &words.rate,
                  "Bytes moved an epoch (default a quarter of DRAM)");
  arguments.value("--watched", &words.watched,
                  "Percent of the chunks whose reads are seen in an epoch (default 100)");
  arguments.value("--window", &words.window,
                  "Percent of an epoch in which accesses are seen (default: as AccessWindow says)");
  arguments.value("--cache-size", &words.cache,
                  "Modelled last-level cache (default a 256th of the footprint)");
  arguments.flag("--quick", &words.quick, "32M and 120 epochs unless given");
  arguments.value("--break", &words.broken, "Run a broken policy; the run must fail");
  arguments.flag("--list-breaks", &words.list_breaks, "List the broken policies");
  arguments.output(&words.output);
}

uint64_t number(const char* option, const std::string& word, uint64_t absent, uint64_t least,
                uint64_t most) {
  if (word.empty()) return absent;
  uint64_t value = 0;
  const char* end = word.data() + word.size();
  const auto [rest, error] = std::from_chars(word.data(), end, value);
  if (error != std::errc() || rest != end || value < least || value > most) {
    throw UsageError(std::string(option) + " must be a number from " + std::to_string(least) +
                     " to " + std::to_string(most) + ", not '" + word + "'");
  }
  return value;
}

// In pages, rounded down.
uint64_t pages(const char* option, const std::string& word, uint64_t absent_bytes,
               uint64_t least_pages) {
  if (word.empty()) return absent_bytes / pcow::kPageSize;
  const auto bytes = pcow::parse_size(word);
  if (!bytes) throw UsageError(std::string(option) + ": " + bytes.error().message);
  const uint64_t result = *bytes / pcow::kPageSize;
  if (result < least_pages || *bytes > tiersim::kFootprintMax) {
    throw UsageError(std::string(option) + " must be from " +
                     std::to_string(least_pages * pcow::kPageSize / pcow::kKiB) + "K to 64G");
  }
  return result;
}

std::vector<PolicyKind> policies(const std::string& word) {
  if (word.empty() || word == "all") {
    return {std::begin(tiering::kAllPolicies), std::end(tiering::kAllPolicies)};
  }
  const auto kind = tiering::policy_by_name(word);
  if (!kind) throw UsageError("no policy '" + word + "'; see --help");
  return {*kind};
}

const tiersim::Break* find_break(const std::string& word) {
  if (word.empty()) return nullptr;
  const auto breaks = tiersim::breaks();
  const auto at = std::ranges::find(breaks, word, &tiersim::Break::name);
  if (at == breaks.end()) throw UsageError("no broken policy '" + word + "'; see --list-breaks");
  return &*at;
}

tiersim::SimulationOptions simulation_options(const Words& words) {
  tiersim::SimulationOptions options;
  options.policies = policies(words.policy);
  options.dram_pages = pages("--dram-size", words.dram_size, 0, 16);
  options.high_percent = number("--high", words.high, options.high_percent, 1, 100);
  options.low_percent = number("--low", words.low, options.low_percent, 1, 100);
  if (options.low_percent > options.high_percent) {
    throw UsageError("--low must not be above --high");
  }
  options.move_pages = pages("--migrate-rate", words.rate, 0, 2);
  options.watched_percent = number("--watched", words.watched, options.watched_percent, 0, 100);
  options.window_percent = number("--window", words.window, options.window_percent, 1, 100);
  options.cache_bytes = pages("--cache-size", words.cache, 0, 1) * pcow::kPageSize;
  options.seed = number("--seed", words.seed, 1, 0, UINT64_MAX);
  options.broken = find_break(words.broken);
  if (options.broken != nullptr &&
      std::ranges::find(options.policies, options.broken->kind) == options.policies.end()) {
    throw UsageError(std::string("'") + options.broken->name + "' breaks the policy " +
                     tiering::policy_name(options.broken->kind) + ", which does not run");
  }
  return options;
}

std::vector<Section> run_generators(const Words& words, const tiersim::SimulationOptions& options) {
  const tiersim::GeneratorOptions generate = {
      .pages = pages("--size", words.size, words.quick ? kQuickSize : kSize, 64),
      .epochs =
          number("--epochs", words.epochs, words.quick ? kQuickEpochs : kEpochs, 4, 1'000'000),
      .accesses_per_page = number("--accesses", words.accesses, 8, 1, 1000),
      .seed = options.seed};
  const bool all = words.generator.empty() || words.generator == "all";
  std::vector<Section> sections;
  for (const Generator& generator : tiersim::generators()) {
    if (!all && words.generator != generator.name) continue;
    sections.push_back(simulate(generator.name, *generator.make(generate), options));
  }
  if (sections.empty()) throw UsageError("no generator '" + words.generator + "'; see --help");
  return sections;
}

Section run_recorded(const Words& words, const tiersim::SimulationOptions& options) {
  const bool generates = !words.generator.empty() || !words.size.empty() || !words.epochs.empty() ||
                         !words.accesses.empty() || words.quick;
  if (generates) {
    throw UsageError(
        "--trace does not go with --generate, --size, --epochs, --accesses or --quick");
  }
  return simulate("recorded", *tiersim::read_trace(words.trace), options);
}

int run(const std::vector<std::string>& args) {
  Words words;
  tools::Arguments arguments("tiersim", "Runs tiering policies over access traces.");
  declare(arguments, words);
  if (!arguments.parse(args)) return tools::kExitOk;
  if (words.list_breaks) {
    for (const tiersim::Break& broken : tiersim::breaks()) {
      std::printf("%-16s %-7s %s\n", broken.name, tiering::policy_name(broken.kind), broken.what);
    }
    return tools::kExitOk;
  }
  const tiersim::SimulationOptions options = simulation_options(words);
  std::vector<Section> sections;
  if (words.trace.empty()) {
    sections = run_generators(words, options);
  } else {
    sections.push_back(run_recorded(words, options));
  }
  return tiersim::report(sections, options.seed, words.output);
}

}  // namespace

int main(int argc, char** argv) {
  tools::expect_lack_of_memory("tiersim");
  int exit_code = tools::kExitError;
  try {
    exit_code = run({argv + (argc > 0 ? 1 : 0), argv + argc});
    return tools::flush_stdout("tiersim", exit_code);
  } catch (const UsageError& error) {
    std::fprintf(stderr, "tiersim: %s\nTry 'tiersim --help' for more information\n", error.what());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "tiersim: %s\n", std::strerror(ENOMEM));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tiersim: %s\n", error.what());
  }
  std::printf("RESULT failed error=1\n");
  return tools::flush_stdout("tiersim", exit_code);
}
