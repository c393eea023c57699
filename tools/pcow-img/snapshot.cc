// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <functional>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/common/signal_hold.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/snapshot_list.h"

namespace pcow_img {
namespace {

struct SnapshotCommand {
  tools::Output output = tools::Output::kHuman;
  bool quiet = false;
  bool force_share = false;
  bool list = false;
  std::string create;
  std::string apply;
  std::string remove;
  std::string file;
};

bool parse(const std::vector<std::string>& args, SnapshotCommand* command) {
  tools::Arguments arguments("pcow-img snapshot",
                             "Lists, creates, deletes the snapshots of an image that is not in "
                             "use, or goes back to one.");
  arguments.flag("-l,--list", &command->list, "List the snapshots (the default)");
  arguments.value("-c,--create", &command->create, "Create a snapshot of this name");
  arguments.value("-a,--apply", &command->apply,
                  "Go back to this snapshot: what was written since is lost");
  arguments.value("-d,--delete", &command->remove, "Delete this snapshot");
  arguments.output(&command->output);
  arguments.flag("-q,--quiet", &command->quiet, "Print errors only");
  arguments.flag("-U,--force-share", &command->force_share, "List those of an image in use");
  arguments.positional("FILE", &command->file, "Image", "expecting image file name");
  if (!arguments.parse(args)) return false;
  const int actions = (command->list ? 1 : 0) + (command->create.empty() ? 0 : 1) +
                      (command->apply.empty() ? 0 : 1) + (command->remove.empty() ? 0 : 1);
  if (actions > 1) throw tools::UsageError("give one of -l, -c, -a and -d only");
  if (actions == 0) command->list = true;
  if (!command->list && command->force_share) {
    throw tools::UsageError("-U works with -l only: an image in use is not changed");
  }
  if (!command->list && command->output == tools::Output::kJson) {
    throw tools::UsageError("--output works with -l only");
  }
  return true;
}

void list(const SnapshotCommand& command) {
  const auto image = open_to_describe(command.file, command.force_share);
  const auto snapshots = tools::value_or_fail(image->snapshots());
  if (command.quiet) return;
  if (command.output == tools::Output::kJson) {
    std::printf("%s\n", tools::json_text(snapshots_json(snapshots)).c_str());
  } else {
    print_snapshots(snapshots);
  }
}

pcow::Result<void> change(const SnapshotCommand& command, pcow::Image& image) {
  if (!command.create.empty()) return image.create_snapshot(command.create);
  if (!command.apply.empty()) return image.apply_snapshot(command.apply);
  return image.delete_snapshot(command.remove);
}

void change(const SnapshotCommand& command) {
  const tools::SignalHold hold;
  const auto image = open_for_changing(command.file, command.quiet, pcow::BaseAccess::kIgnore);
  auto changed = change(command, *image);
  auto closed = image->close();
  tools::value_or_fail(std::move(changed));
  tools::value_or_fail(std::move(closed));
}

}  // namespace

int run_snapshot(const std::vector<std::string>& args) {
  SnapshotCommand command;
  if (!parse(args, &command)) return tools::kExitOk;
  if (command.list) {
    list(command);
  } else {
    change(command);
  }
  return tools::kExitOk;
}

}  // namespace pcow_img
