// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <optional>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/progress.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

// Not what anybody can type.
const std::string kAbsent(1, '\0');

struct RebaseCommand {
  bool quiet = false;
  bool progress = false;
  bool unsafe = false;
  bool allow_base = false;
  std::string base = kAbsent;
  std::string base_format;
  std::string file;
};

bool parse(const std::vector<std::string>& args, RebaseCommand& command) {
  tools::Arguments arguments(
      "pcow-img rebase",
      "Gives an image that is not in use another base. What a guest sees stays: what the two bases "
      "show differently is written into the image. A crash leaves the old base or the new one.");
  arguments.flag("-q,--quiet", &command.quiet, "Print errors only");
  arguments.flag("-p,--progress", &command.progress, "Show progress");
  arguments.value_or_empty("-b,--backing", &command.base,
                           "The new base, its path from the directory of FILE; '' for none");
  arguments.value("-F,--backing-format", &command.base_format,
                  "Format of the base: 'pcow' (the default) or 'raw'");
  arguments.flag("-u,--unsafe", &command.unsafe,
                 "Change the reference only: FILE shows what the new base shows");
  add_allow_base_option(arguments, &command.allow_base);
  arguments.positional("FILE", &command.file, "Image to change", "expecting image file name");
  if (!arguments.parse(args)) return false;
  if (command.base == kAbsent) {
    throw tools::UsageError("expecting -b with the new base, or -b '' for none");
  }
  return true;
}

void rebase(const RebaseCommand& command) {
  const std::optional<pcow::Base> base = parse_base(command.base, command.base_format);
  const auto image = open_for_changing(
      command.file, command.quiet,
      command.unsafe ? pcow::BaseAccess::kIgnore : base_access(command.allow_base));
  pcow::Result<void> changed;
  if (command.unsafe) {
    changed = image->set_base(base);
  } else {
    tools::Progress progress(command.progress && !command.quiet);
    changed =
        image->rebase(base, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  }
  auto closed = image->close();
  if (!changed) throw tools::Failure(message_with_allow_base(changed.error()));
  tools::value_or_fail(std::move(closed));
  if (!command.quiet) std::printf("Image rebased.\n");
}

}  // namespace

int run_rebase(const std::vector<std::string>& args) {
  RebaseCommand command;
  if (!parse(args, command)) return tools::kExitOk;
  rebase(command);
  return tools::kExitOk;
}

}  // namespace pcow_img
