// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/new_image.h>
#include <cstdio>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/signal_hold.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/create_request.h"

namespace pcow_img {
namespace {

struct CreateCommand {
  bool quiet = false;
  bool force = false;
  std::string format = "pcow";
  std::string log_size;
  std::string base;
  std::string base_format;
  std::vector<std::string> stripe;
  std::string stripe_unit;
  std::vector<std::string> words;
};

bool parse(const std::vector<std::string>& args, CreateCommand* command) {
  tools::Arguments arguments(
      "pcow-img create",
      "Creates a thin image of SIZE bytes: memory of which only what is written takes space.\n"
      "With -b it shows what the base holds until something else is written; SIZE is then that of "
      "the base if it is not given.\n"
      "The published form 'create CLUSTER_KB SIZE_GB FILE' is understood too.");
  std::string file;
  std::string size;
  arguments.flag("-q,--quiet", &command->quiet, "Print errors only");
  arguments.flag("--force", &command->force, "Replace FILE if it exists and is not in use");
  arguments.value("-f,--format", &command->format, "Image format; only 'pcow'");
  arguments.value(
      "--log-size", &command->log_size,
      "Size of the epoch log (4M to 256M; default: 1/16 of SIZE, from 64M to 256M); sparse");
  arguments.value("-b,--backing", &command->base,
                  "Base image, its path from the directory of FILE; it must not change any more");
  arguments.value("-F,--backing-format", &command->base_format,
                  "Format of the base: 'pcow' (the default) or 'raw'");
  add_stripe_options(arguments, "FILE", &command->stripe, &command->stripe_unit);
  arguments.positional("FILE", &file, "Image to create", "expecting image file name");
  arguments.positional("SIZE", &size, "Virtual size, a multiple of 2M");
  arguments.extra_words(&command->words);
  if (!arguments.parse(args)) return false;
  if (size.empty() && command->base.empty()) {
    throw tools::UsageError("expecting image file name and size");
  }
  if (!size.empty()) command->words.insert(command->words.begin(), size);
  command->words.insert(command->words.begin(), file);
  return true;
}

std::string report(const std::string& file, const pcow::CreateOptions& options,
                   const pcow::ImageInfo& info) {
  std::string more;
  if (options.base) {
    more = " backing_file=" + options.base->path +
           " backing_fmt=" + std::string(pcow::base_format_name(options.base->format));
  }
  for (const std::string& member : options.stripe) more += " stripe=" + member;
  if (!options.stripe.empty()) more += " stripe_unit=" + std::to_string(info.stripe_unit);
  return "Formatting '" + file + "', fmt=pcow size=" + std::to_string(info.virtual_size) + more +
         " log_size=" + std::to_string(info.log_size) + "\n";
}

// Returns the report on it. It has its name only when nothing can fail any more, nor memory run
// out.
std::string create(const std::string& file, const pcow::CreateOptions& options) {
  const tools::SignalHold hold;
  pcow::NewImage created =
      created_or_fail(pcow::NewImage::plan(file, options), file, options.overwrite);
  std::string text;
  {
    // Its base is looked at, not opened.
    const auto image = tools::value_or_fail(created.create(0, pcow::BaseAccess::kIgnore));
    text = report(file, options, image->info());
    tools::value_or_fail(image->close());
  }
  created_or_fail(created.publish(), file, options.overwrite);
  return text;
}

}  // namespace

int run_create(const std::vector<std::string>& args) {
  CreateCommand command;
  if (!parse(args, &command)) return tools::kExitOk;
  if (command.format != "pcow") {
    throw tools::Failure("unknown file format '" + command.format +
                         "': this program creates 'pcow' only");
  }
  pcow::CreateOptions options;
  options.base = parse_base(command.base, command.base_format);
  CreateRequest request;
  if (options.base && command.words.size() == 1) {
    request.file = command.words.front();
  } else {
    request = parse_create_words(command.words);
    check_virtual_size("cannot create '" + request.file + "'", request.size);
  }
  options.virtual_size = request.size;
  options.overwrite = command.force;
  if (!command.log_size.empty()) {
    options.log_size = parse_size_argument("--log-size", command.log_size);
    if (options.log_size == 0) throw tools::UsageError("--log-size: 0 is not possible");
  }
  options.stripe = command.stripe;
  options.stripe_unit = parse_stripe_unit(command.stripe_unit);
  if (request.cluster_kib && !command.quiet) {
    std::fprintf(stderr,
                 "pcow-img: note: the cluster size of %llu KiB is accepted for compatibility; this "
                 "format allocates pages of 4 KiB\n",
                 static_cast<unsigned long long>(*request.cluster_kib));
  }
  const std::string text = create(request.file, options);
  if (!command.quiet) std::fputs(text.c_str(), stdout);
  return tools::kExitOk;
}

}  // namespace pcow_img
