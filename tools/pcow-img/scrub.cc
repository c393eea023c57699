// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/scrub.h>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/common/progress.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

struct ScrubCommand {
  tools::Output output = tools::Output::kHuman;
  bool add = false;
  bool quiet = false;
  bool progress = false;
  std::string file;
};

uint64_t bytes_of(uint64_t pages) { return pages * pcow::kPageSize; }

int exit_code_of(const pcow::ScrubReport& report) {
  return report.bad.empty() && report.check.corruptions == 0 ? kCheckOk : kCheckCorrupt;
}

void print_json(const pcow::ScrubReport& report, uint64_t added, const std::string& file) {
  auto scrub = nlohmann::ordered_json::object();
  scrub["filename"] = file;
  scrub["format"] = "pcow";
  scrub["corruptions"] = report.check.corruptions;
  scrub["bad-windows"] = report.bad.size();
  scrub["added-bytes"] = bytes_of(added);
  scrub["verified-bytes"] = bytes_of(report.verified_pages);
  scrub["unverified-bytes"] = bytes_of(report.unverified_pages);
  scrub["active-bytes"] = bytes_of(report.active_pages);
  scrub["bad"] = nlohmann::ordered_json::array();
  for (const pcow::BadWindow& bad : report.bad) {
    auto window = nlohmann::ordered_json::object();
    window["start"] = bad.guest_offset;
    window["length"] = bad.length;
    window["offset"] = bad.file_offset;
    window["layer"] = bad.layer;
    window["snapshot"] = bad.snapshot;
    scrub["bad"].push_back(std::move(window));
  }
  scrub["messages"] = report.check.messages;
  std::printf("%s\n", tools::json_text(scrub).c_str());
}

void print_human(const pcow::ScrubReport& report, uint64_t added, const std::string& file) {
  if (exit_code_of(report) != kCheckOk) std::printf("'%s' is damaged:\n", file.c_str());
  for (const std::string& message : report.check.messages) std::printf("%s\n", message.c_str());
  for (const pcow::BadWindow& bad : report.bad) {
    const std::string of =
        bad.snapshot.empty() ? "several snapshots" : "snapshot '" + bad.snapshot + "'";
    std::printf("bad data: guest offset %llu, length %llu, of %s, at offset %llu\n",
                static_cast<unsigned long long>(bad.guest_offset),
                static_cast<unsigned long long>(bad.length), of.c_str(),
                static_cast<unsigned long long>(bad.file_offset));
  }
  if (added > 0) std::printf("checksums added: %s\n", pcow::format_size(bytes_of(added)).c_str());
  std::printf("verified: %s\n", pcow::format_size(bytes_of(report.verified_pages)).c_str());
  if (report.unverified_pages > 0) {
    std::printf("without a checksum: %s of snapshots (--add makes them)\n",
                pcow::format_size(bytes_of(report.unverified_pages)).c_str());
  }
  if (report.active_pages > 0) {
    std::printf("not covered: %s written since the newest snapshot\n",
                pcow::format_size(bytes_of(report.active_pages)).c_str());
  }
  if (exit_code_of(report) == kCheckOk) std::printf("No errors were found.\n");
}

template <typename T>
T value_or_fail(pcow::Result<T> result) {
  if (result) return *std::move(result);
  const pcow::Error& error = result.error();
  const bool unsupported =
      error.code == pcow::Code::kForeign || error.code == pcow::Code::kUnsupported;
  throw tools::Failure(error.message, unsupported ? kCheckUnsupported : kCheckError);
}

}  // namespace

int run_scrub(const std::vector<std::string>& args) {
  ScrubCommand command;
  tools::Arguments arguments(
      "pcow-img scrub",
      "Verifies the data that snapshots keep, by checksums that were made before, and every "
      "structure of the image. Writes to it only with --add. Exit codes: 0 no errors, 1 not "
      "verified, 2 damaged, 63 unsupported.");
  arguments.output(&command.output);
  arguments.flag("--add", &command.add, "First make the checksums that are missing");
  arguments.flag("-q,--quiet", &command.quiet, "Print errors of the program only");
  arguments.flag("-p,--progress", &command.progress, "Show progress (human output only)");
  arguments.positional("FILE", &command.file, "Image to verify", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;

  // In JSON, the document is all there is on stdout.
  const bool show = command.progress && !command.quiet && command.output == tools::Output::kHuman;
  uint64_t added = 0;
  if (command.add) {
    tools::Progress bar(show);
    added = value_or_fail(pcow::add_checksums(
        command.file, [&bar](uint64_t done, uint64_t total) { bar.update(done, total); }));
  }
  pcow::ScrubReport report;
  {
    tools::Progress bar(show);
    report = value_or_fail(pcow::scrub_image(
        command.file, [&bar](uint64_t done, uint64_t total) { bar.update(done, total); }));
  }
  if (!command.quiet && command.output == tools::Output::kJson) {
    print_json(report, added, command.file);
  } else if (!command.quiet) {
    print_human(report, added, command.file);
  }
  return exit_code_of(report);
}

}  // namespace pcow_img
