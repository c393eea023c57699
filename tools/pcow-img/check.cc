// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/common/progress.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

struct CheckCommand {
  tools::Output output = tools::Output::kHuman;
  bool quiet = false;
  bool progress = false;
  bool force_share = false;
  std::string repair;  // what -r says
  std::string file;
};

// What is there, and what a repair did before.
struct Outcome {
  pcow::CheckReport report;
  std::optional<pcow::RepairReport> repair;
};

// Foreign and newer files have a code of their own: not damaged, only nothing this program can
// judge.
int exit_code_of(const pcow::Error& error) {
  const bool unsupported =
      error.code == pcow::Code::kForeign || error.code == pcow::Code::kUnsupported;
  return unsupported ? kCheckUnsupported : kCheckError;
}

int exit_code_of(const pcow::CheckReport& report) {
  if (report.corruptions > 0) return kCheckCorrupt;
  return report.leaked_bytes > 0 ? kCheckLeaks : kCheckOk;
}

uint64_t leaked_pages(const pcow::CheckReport& report) {
  return (report.leaked_bytes + pcow::kPageSize - 1) / pcow::kPageSize;
}

// What was found and is no more.
std::vector<std::string> repaired(const pcow::RepairReport& repair) {
  std::vector<std::string> gone;
  const std::vector<std::string>& left = repair.left.messages;
  for (const std::string& message : repair.found.messages) {
    if (std::find(left.begin(), left.end(), message) == left.end()) gone.push_back(message);
  }
  return gone;
}

void print_json(const Outcome& outcome, const std::string& file) {
  const pcow::CheckReport& report = outcome.report;
  auto check = nlohmann::ordered_json::object();
  check["filename"] = file;
  check["format"] = "pcow";
  check["check-errors"] = 0;
  check["corruptions"] = report.corruptions;
  check["leaks"] = leaked_pages(report);
  check["leaked-bytes"] = report.leaked_bytes;
  check["allocated-clusters"] = report.allocated_pages;
  check["segments"] = report.segments;
  check["log-records"] = report.log_records;
  check["dirty-flag"] = !report.clean;
  check["corrupt-flag"] = report.marked_corrupt;
  if (outcome.repair) {
    const pcow::RepairReport& repair = *outcome.repair;
    check["recovered"] = repair.recovered;
    check["corruptions-fixed"] = repair.found.corruptions - report.corruptions;
    check["leaks-fixed"] = leaked_pages(repair.found) - leaked_pages(report);
    check["repaired"] = repaired(repair);
    check["refused"] = repair.refused;
  }
  check["messages"] = report.messages;
  std::printf("%s\n", tools::json_text(check).c_str());
}

void print_human(const pcow::CheckReport& report, const std::string& file, bool force_share) {
  // As every message on a bad file: many may be checked in one go.
  if (report.corruptions > 0) std::printf("'%s' is damaged:\n", file.c_str());
  for (const std::string& message : report.messages) std::printf("%s\n", message.c_str());
  if (report.corruptions == 0 && report.leaked_bytes == 0) {
    std::printf("No errors were found on the image.\n");
  }
  if (report.corruptions > 0) {
    std::printf(
        "\n%llu errors were found on the image.\n"
        "Data may be corrupted, or further writes to the image may corrupt it.\n",
        static_cast<unsigned long long>(report.corruptions));
  }
  if (report.leaked_bytes > 0) {
    std::printf(
        "\n%s of file space belong to nothing.\n"
        "This means waste of space, but no harm to data.\n",
        pcow::format_size(report.leaked_bytes).c_str());
  }
  if (!report.clean) {
    std::printf("The image %s (%llu log records to replay).\n",
                force_share ? "is in use, or was not closed cleanly"
                            : "was not closed cleanly; the next writable open recovers it",
                static_cast<unsigned long long>(report.log_records));
  }
  // Behind a damaged structure nothing was counted.
  if (report.corruptions > 0) return;
  std::printf("%llu pages (%s) allocated in %llu segments\n",
              static_cast<unsigned long long>(report.allocated_pages),
              pcow::format_size(report.allocated_pages * pcow::kPageSize).c_str(),
              static_cast<unsigned long long>(report.segments));
}

void print_repair(const pcow::RepairReport& repair, const std::string& file) {
  if (repair.recovered) std::printf("'%s' was not closed cleanly: recovered.\n", file.c_str());
  if (!repair.refused.empty()) {
    std::printf("Nothing was repaired in '%s':\n", file.c_str());
    for (const std::string& reason : repair.refused) std::printf("%s\n", reason.c_str());
    if (repair.refused.front().starts_with("corrupt:")) {
      std::printf(
          "Nothing in the image proves what that was: restore the file from a copy, or copy what "
          "can be read with 'pcow-img convert'.\n");
    }
    std::printf("\n");
    return;
  }
  const std::vector<std::string> done = repaired(repair);
  if (done.empty()) return;
  for (const std::string& message : done) std::printf("Repaired: %s\n", message.c_str());
  std::printf("\nDouble checking the repaired image:\n");
}

pcow::Result<Outcome> check(const CheckCommand& command) {
  // In JSON, the document is all there is on stdout.
  const bool show = command.progress && !command.quiet && command.output == tools::Output::kHuman;
  tools::Progress bar(show);
  const auto progress = [&bar](uint64_t done, uint64_t total) { bar.update(done, total); };
  Outcome outcome;
  if (command.repair.empty()) {
    PCOW_TRY_ASSIGN(outcome.report, pcow::check_image(command.file, command.force_share, progress));
    return outcome;
  }
  const pcow::Repair repair = command.repair == "all" ? pcow::Repair::kAll : pcow::Repair::kLeaks;
  PCOW_TRY_ASSIGN(outcome.repair, pcow::repair_image(command.file, repair, progress));
  outcome.report = outcome.repair->left;
  return outcome;
}

void check_options(const CheckCommand& command) {
  if (!command.repair.empty() && command.repair != "leaks" && command.repair != "all") {
    throw tools::UsageError("unknown repair '" + command.repair + "': 'leaks' or 'all'");
  }
  if (!command.repair.empty() && command.force_share) {
    throw tools::UsageError("-r and -U contradict each other: an image in use is not repaired");
  }
}

}  // namespace

int run_check(const std::vector<std::string>& args) {
  CheckCommand command;
  tools::Arguments arguments(
      "pcow-img check",
      "Verifies every structure of an image. Writes to it only with -r. Exit codes, of what is "
      "left: 0 no errors, 1 not checked, 2 corrupt, 3 leaks, 63 unsupported.");
  arguments.output(&command.output);
  arguments.flag("-q,--quiet", &command.quiet, "Print errors of the program only");
  arguments.flag("-p,--progress", &command.progress, "Show progress (human output only)");
  arguments.value("-r,--repair", &command.repair,
                  "Repair: 'leaks' gives back space that nothing owns, 'all' whatever can be "
                  "proven");
  arguments.flag("-U,--force-share", &command.force_share, "Check an image that is in use");
  arguments.positional("FILE", &command.file, "Image to check", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;

  check_options(command);
  const auto outcome = check(command);
  if (!outcome) {
    const pcow::Error& error = outcome.error();
    // A repair needs the image for itself.
    std::string message = command.repair.empty() ? message_with_option(error) : error.message;
    if (error.code == pcow::Code::kForeign) message += "; only pcow images can be checked";
    throw tools::Failure(message, exit_code_of(error));
  }
  if (!command.quiet && command.output == tools::Output::kJson) {
    print_json(*outcome, command.file);
  } else if (!command.quiet) {
    if (outcome->repair) print_repair(*outcome->repair, command.file);
    print_human(outcome->report, command.file, command.force_share);
  }
  return exit_code_of(outcome->report);
}

}  // namespace pcow_img
