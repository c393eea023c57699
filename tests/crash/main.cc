// SPDX-License-Identifier: BSD-3-Clause
//
// pcow-crash: records what the image engine does to its medium and opens the states that a crash at
// any point of it can leave. Exit status: 0 nothing wrong, 1 violations, 2 usage or a failure of
// the explorer itself. The last line is the result.
#include <malloc.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "tests/crash/explorer.h"

namespace {

using crash::MediumKind;

struct Arguments {
  uint64_t seed = 1;
  double seconds = 0;
  bool quick = false;
  uint64_t states = 0;
  std::string workload = "all";
  std::string medium = "both";
  std::string broken;
};

const char* medium_name(MediumKind kind) { return kind == MediumKind::kPmem ? "pmem" : "page"; }

class Run {
 public:
  Run(const Arguments& arguments, const crash::ExploreOptions& options)
      : arguments_(&arguments), options_(options) {}

  void scripts(MediumKind kind) {
    for (const crash::Script& script : crash::scripts()) {
      if (arguments_->workload != "all" && arguments_->workload != script.name) continue;
      crash::Explorer explorer(kind, options(kind, script.name), arguments_->seed, totals_);
      if (explorer.finished()) return;
      const crash::Totals before = totals_;
      crash::Driver driver(kind, script.size, script.base_pages, script.striped);
      script.run(driver);
      explorer.explore(driver.finish(), name(kind, script.name));
      print(name(kind, script.name), before);
    }
  }

  // Up to the deadline if there is one, else so many lives; 0: up to the limit of states.
  // Lives of an image: each goes on from a state in which a crash left the one before.
  void random(MediumKind kind, size_t lives,
              std::optional<std::chrono::steady_clock::time_point> deadline) {
    options_.deadline = deadline;
    crash::Random random(arguments_->seed);
    crash::Explorer explorer(kind, options(kind, "random"), arguments_->seed, totals_);
    const crash::Totals before = totals_;
    constexpr size_t kOperations = 8;
    constexpr size_t kLivesOfAnImage = 6;
    std::optional<crash::Explorer::Survivor> survivor;
    crash::Oracle oracle(0);
    for (size_t life = 0; (lives == 0 || life < lives) && !explorer.finished(); ++life) {
      std::unique_ptr<crash::Driver> driver;
      if (life % kLivesOfAnImage == 0 || !survivor) {
        // Every other image is in two files.
        const bool striped = life / kLivesOfAnImage % 2 == 1;
        driver =
            std::make_unique<crash::Driver>(kind, 2 * pcow::kGiB, std::vector<uint64_t>{}, striped);
        driver->create();
        driver->start();
      } else {
        oracle.adopt(survivor->found);
        driver = std::make_unique<crash::Driver>(kind, std::move(survivor->state), oracle);
      }
      crash::random_operations(*driver, random, kOperations);
      const crash::Recording recording = driver->finish();
      oracle = recording.oracle;
      explorer.explore(recording, name(kind, "random") + ", life " + std::to_string(life));
      survivor = explorer.take_survivor();
    }
    print(name(kind, "random"), before);
  }

  int finish(double seconds) const {
    const auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
    std::printf(
        "RESULT %s states=%llu distinct=%llu checked=%llu operations=%llu points=%llu "
        "exhaustive=%llu recoveries=%llu twice=%llu violations=%llu seed=%llu seconds=%.1f\n",
        totals_.violations == 0 ? "ok" : "failed", number(totals_.states), number(totals_.distinct),
        number(totals_.checked), number(totals_.operations), number(totals_.points),
        number(totals_.exhaustive), number(totals_.recoveries), number(totals_.twice),
        number(totals_.violations), number(arguments_->seed), seconds);
    return totals_.violations == 0 ? 0 : 1;
  }

 private:
  crash::ExploreOptions options(MediumKind kind, const std::string& workload) const {
    crash::ExploreOptions options = options_;
    options.again = "pcow-crash --seed " + std::to_string(arguments_->seed) + " --medium " +
                    medium_name(kind) + " --workload " + workload +
                    (arguments_->quick ? " --quick" : "") +
                    (arguments_->broken.empty() ? "" : " --break " + arguments_->broken);
    return options;
  }

  static std::string name(MediumKind kind, const std::string& workload) {
    return workload + " on " + medium_name(kind);
  }

  void print(const std::string& what, const crash::Totals& before) const {
    const auto since = [](uint64_t now, uint64_t then) {
      return static_cast<unsigned long long>(now - then);
    };
    std::printf(
        "%-18s %6llu operations %5llu points (%llu in full) %8llu states %8llu distinct "
        "%4llu violations\n",
        what.c_str(), since(totals_.operations, before.operations),
        since(totals_.points, before.points), since(totals_.exhaustive, before.exhaustive),
        since(totals_.states, before.states), since(totals_.distinct, before.distinct),
        since(totals_.violations, before.violations));
    std::fflush(stdout);
  }

  const Arguments* arguments_;
  crash::ExploreOptions options_;
  crash::Totals totals_;
};

using Clock = std::chrono::steady_clock;

constexpr size_t kQuickLives = 5;
constexpr size_t kLives = 60;

crash::ExploreOptions explore_options(const Arguments& arguments) {
  crash::ExploreOptions options;
  if (arguments.quick) {
    options.limits = {64, 40};
    options.recovery_limits = {32, 16};
    options.recovery_one_in = 128;
  } else {
    options.limits = {4096, 512};
    options.recovery_limits = {256, 64};
  }
  options.states_max = arguments.states;
  for (const crash::Break& candidate : crash::breaks()) {
    if (arguments.broken == candidate.name) options.broken = &candidate;
  }
  if (options.broken != nullptr) options.violations_max = 1;
  return options;
}

int explore(const Arguments& arguments) {
  const auto started = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - started); };
  std::vector<MediumKind> kinds;
  if (arguments.medium != "page") kinds.push_back(MediumKind::kPmem);
  if (arguments.medium != "pmem") kinds.push_back(MediumKind::kPage);
  Run run(arguments, explore_options(arguments));
  for (const MediumKind kind : kinds) run.scripts(kind);
  if (arguments.workload == "all" || arguments.workload == "random") {
    // What is left of the time, in equal parts.
    const auto left = std::chrono::duration<double>(arguments.seconds) - seconds();
    const auto part = std::chrono::duration_cast<Clock::duration>(left / kinds.size());
    for (const MediumKind kind : kinds) {
      if (arguments.seconds > 0) {
        run.random(kind, 0, Clock::now() + part);
      } else if (arguments.states > 0) {
        run.random(kind, 0, std::nullopt);
      } else {
        run.random(kind, arguments.quick ? kQuickLives : kLives, std::nullopt);
      }
    }
  }
  return run.finish(seconds().count());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Opens the states that a crash can leave an image in.");
  Arguments arguments;
  std::vector<std::string> workloads = {"all", "random"};
  for (const crash::Script& script : crash::scripts()) workloads.emplace_back(script.name);
  std::vector<std::string> broken;
  for (const crash::Break& candidate : crash::breaks()) broken.emplace_back(candidate.name);
  bool list_breaks = false;
  app.add_option("--seed", arguments.seed, "of the random choices (default 1)");
  app.add_option("--seconds", arguments.seconds, "go on with random operations for so long");
  app.add_option("--states", arguments.states, "stop after so many states");
  app.add_flag("--quick", arguments.quick,
               "fewer states a point and crashes of recovery, fewer random operations");
  app.add_option("--workload", arguments.workload, "what is done to the image (default all)")
      ->check(CLI::IsMember(workloads));
  app.add_option("--medium", arguments.medium, "pmem, page or both (default)")
      ->check(CLI::IsMember({"pmem", "page", "both"}));
  app.add_option("--break", arguments.broken, "explore a broken variant, up to its first violation")
      ->check(CLI::IsMember(broken));
  app.add_flag("--list-breaks", list_breaks, "list the broken variants");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (list_breaks) {
    for (const crash::Break& b : crash::breaks()) std::printf("%-22s %s\n", b.name, b.what);
    return 0;
  }
  // The log of every state is read into memory: keep that memory instead of mapping it anew.
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(64 * pcow::kMiB));
  mallopt(M_TRIM_THRESHOLD, static_cast<int>(256 * pcow::kMiB));
  try {
    return explore(arguments);
  } catch (const std::exception& error) {
    std::printf("%s\nRESULT failed error=1\n", error.what());
    return 2;
  }
}
