// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/progress.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

struct CommitCommand {
  bool quiet = false;
  bool progress = false;
  bool keep = false;
  bool allow_base = false;
  std::string file;
};

bool parse(const std::vector<std::string>& args, CommitCommand& command) {
  tools::Arguments arguments(
      "pcow-img commit",
      "Writes what an image holds down into its base, and empties the image: it shows the same "
      "through the base. Neither may be in use. Other images on that base become useless.");
  arguments.flag("-q,--quiet", &command.quiet, "Print errors only");
  arguments.flag("-p,--progress", &command.progress, "Show progress");
  arguments.flag("-d", &command.keep, "Do not empty the image");
  add_allow_base_option(arguments, &command.allow_base);
  arguments.positional("FILE", &command.file, "Image whose content is written to its base",
                       "expecting image file name");
  return arguments.parse(args);
}

}  // namespace

int run_commit(const std::vector<std::string>& args) {
  CommitCommand command;
  if (!parse(args, command)) return tools::kExitOk;
  const auto image =
      open_for_changing(command.file, command.quiet, base_access(command.allow_base));
  pcow::Result<void> committed;
  {
    tools::Progress progress(command.progress && !command.quiet);
    committed = image->commit_to_base(
        command.keep, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  }
  auto closed = image->close();
  tools::value_or_fail(std::move(committed));
  tools::value_or_fail(std::move(closed));
  if (!command.quiet) std::printf("Image committed.\n");
  return tools::kExitOk;
}

}  // namespace pcow_img
