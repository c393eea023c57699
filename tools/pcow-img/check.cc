// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <nlohmann/json.hpp>

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
  std::string file;
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

void print_json(const pcow::CheckReport& report, const std::string& file) {
  nlohmann::ordered_json check;
  check["filename"] = file;
  check["format"] = "pcow";
  check["check-errors"] = 0;
  check["corruptions"] = report.corruptions;
  check["leaks"] = (report.leaked_bytes + pcow::kPageSize - 1) / pcow::kPageSize;
  check["leaked-bytes"] = report.leaked_bytes;
  check["allocated-clusters"] = report.allocated_pages;
  check["segments"] = report.segments;
  check["log-records"] = report.log_records;
  check["dirty-flag"] = !report.clean;
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

pcow::Result<pcow::CheckReport> check(const CheckCommand& command) {
  // In JSON, the document is all there is on stdout.
  const bool show = command.progress && !command.quiet && command.output == tools::Output::kHuman;
  tools::Progress progress(show);
  return pcow::check_image(
      command.file, command.force_share,
      [&progress](uint64_t done, uint64_t total) { progress.update(done, total); });
}

}  // namespace

int run_check(const std::vector<std::string>& args) {
  CheckCommand command;
  tools::Arguments arguments(
      "pcow-img check",
      "Verifies every structure of an image. Never writes to it. Exit codes: "
      "0 no errors, 1 not checked, 2 corrupt, 3 leaks, 63 unsupported.");
  arguments.output(&command.output);
  arguments.flag("-q,--quiet", &command.quiet, "Print errors of the program only");
  arguments.flag("-p,--progress", &command.progress, "Show progress (human output only)");
  arguments.flag("-U,--force-share", &command.force_share, "Check an image that is in use");
  arguments.positional("FILE", &command.file, "Image to check", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;

  const auto report = check(command);
  if (!report) {
    std::string message = message_with_option(report.error());
    if (report.error().code == pcow::Code::kForeign) message += "; only pcow images can be checked";
    throw tools::Failure(message, exit_code_of(report.error()));
  }
  if (!command.quiet && command.output == tools::Output::kJson) {
    print_json(*report, command.file);
  } else if (!command.quiet) {
    print_human(*report, command.file, command.force_share);
  }
  return exit_code_of(*report);
}

}  // namespace pcow_img
