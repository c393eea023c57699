// SPDX-License-Identifier: BSD-3-Clause
//
// Every conversion goes through guest memory: a Content is copied to a Writer. Formats that only
// qemu-img knows are unpacked into, or packed from, a sparse raw file beside the destination.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/progress.h"
#include "tools/common/signal_hold.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/content.h"
#include "tools/pcow-img/copy.h"
#include "tools/pcow-img/new_file.h"
#include "tools/pcow-img/qemu_img.h"
#include "tools/pcow-img/target.h"

namespace pcow_img {
namespace {

struct ConvertCommand {
  bool quiet = false;
  bool progress = false;
  Consent consent;
  std::string source_format;
  std::string source;
  std::string stripe_unit;
  TargetRequest target = {.file = {}, .format = "pcow"};

  bool from_stdin() const { return source == "-"; }
  bool to_stdout() const { return target.file == "-"; }
};

bool is_foreign(const std::string& format) {
  return !format.empty() && format != "pcow" && format != "raw" && format != "nbjl";
}

void check(const ConvertCommand& command) {
  if (command.from_stdin() && command.source_format != "raw") {
    throw tools::UsageError("the standard input must be raw: say so with -f raw");
  }
  if (command.to_stdout() && command.target.format != "raw") {
    throw tools::UsageError("the standard output must be raw: say so with -O raw");
  }
  if (command.to_stdout() && command.progress) {
    throw tools::UsageError("-p writes to the standard output, which is the destination here");
  }
  if (command.to_stdout() && isatty(STDOUT_FILENO) == 1) {
    throw tools::UsageError("the standard output is a terminal: connect it to a pipe or a file");
  }
  if (command.target.format == "nbjl")
    throw tools::Failure("images in format 'nbjl' are only read");
  if (command.to_stdout() && is_foreign(command.source_format)) {
    throw tools::Failure("'" + command.source_format +
                         "' cannot be written to the standard output: name a file");
  }
  if (command.target.format != "pcow" && !command.target.stripe.empty()) {
    throw tools::UsageError("--stripe is for images in format 'pcow'");
  }
  if (!command.stripe_unit.empty() && command.target.stripe.empty()) {
    throw tools::UsageError("--stripe-unit goes with --stripe");
  }
  std::error_code error;
  if (!command.from_stdin() && !command.to_stdout() &&
      std::filesystem::equivalent(command.source, command.target.file, error)) {
    throw tools::Failure("'" + command.source + "' and '" + command.target.file +
                         "' are the same file");
  }
}

void note_rounding(const ConvertCommand& command, uint64_t size, uint64_t rounded) {
  if (rounded == size || command.quiet) return;
  const std::string name = command.from_stdin() ? "the standard input" : "'" + command.source + "'";
  std::fprintf(
      stderr,
      "pcow-img: note: the size of %s, %llu bytes, is rounded up to %llu: the virtual size "
      "of an image is a multiple of 2M\n",
      name.c_str(), static_cast<unsigned long long>(size),
      static_cast<unsigned long long>(rounded));
}

// The size that the target gets for so much content.
uint64_t size_for(const ConvertCommand& command, uint64_t size) {
  if (command.target.format != "pcow") return size;
  const uint64_t rounded = pcow::round_up(size, pcow::kChunkSize);
  check_virtual_size("cannot create '" + command.target.file + "'", rounded);
  note_rounding(command, size, rounded);
  return rounded;
}

void convert_stream(const ConvertCommand& command) {
  const tools::SignalHold hold;
  const auto target = plan_target(command.target, hold);
  uint64_t size = 0;
  {
    const auto writer = target->create(0);
    size = copy_stream(STDIN_FILENO, *writer, &hold);
  }
  if (command.target.format == "pcow") {
    note_rounding(command, size, pcow::round_up(size, pcow::kChunkSize));
  }
  target->publish();
}

// What is appended to a file while it is read has no end.
void refuse_same_streams() {
  struct stat in = {};
  struct stat out = {};
  if (fstat(STDIN_FILENO, &in) != 0 || fstat(STDOUT_FILENO, &out) != 0) return;
  if (S_ISREG(in.st_mode) && in.st_dev == out.st_dev && in.st_ino == out.st_ino) {
    throw tools::Failure("the standard input and the standard output are the same file");
  }
}

void export_to_stdout(const ConvertCommand& command) {
  if (command.from_stdin()) {
    refuse_same_streams();
    copy_stream(STDIN_FILENO, *make_stream_writer(STDOUT_FILENO, "the standard output"), nullptr);
    return;
  }
  const auto content = open_content(command.source, command.source_format, command.consent);
  tools::Progress progress(false);
  const auto writer = make_stream_writer(STDOUT_FILENO, "the standard output");
  copy_content(*content, *writer, progress, nullptr);
}

std::unique_ptr<Content> open_source(const ConvertCommand& command, const ScratchFile* unpacked,
                                     const tools::SignalHold& hold) {
  if (unpacked == nullptr) {
    return open_content(command.source, command.source_format, command.consent);
  }
  QemuImg(command.source_format, hold)
      .unpack(command.source, unpacked->path(), command.consent.force_share);
  return open_raw_content(unpacked->path());
}

void convert_file(const ConvertCommand& command) {
  const tools::SignalHold hold;
  const auto target = plan_target(command.target, hold);
  std::optional<ScratchFile> unpacked;
  if (is_foreign(command.source_format)) unpacked.emplace(command.target.file);

  const auto content = open_source(command, unpacked ? &*unpacked : nullptr, hold);
  if (content->size() == 0) throw tools::Failure("'" + command.source + "' is empty");
  tools::Progress progress(command.progress && !command.quiet);
  {
    const auto writer = target->create(size_for(command, content->size()));
    copy_content(*content, *writer, progress, &hold);
  }
  target->publish();
}

}  // namespace

int run_convert(const std::vector<std::string>& args) {
  ConvertCommand command;
  tools::Arguments arguments(
      "pcow-img convert",
      "Copies guest memory from one image format to another. '-' is the standard input or output, "
      "raw. The destination appears only when it is complete.");
  arguments.flag("-q,--quiet", &command.quiet, "Print errors only");
  arguments.flag("-p,--progress", &command.progress, "Show progress");
  arguments.flag("--force", &command.target.overwrite,
                 "Replace DST if it exists and is not in use");
  add_consent_options(arguments, &command.consent, "Read an image that is in use");
  arguments.value("-f,--source-format", &command.source_format,
                  "Format of SRC: pcow, raw, nbjl (the published pcow), or one of qemu-img's; "
                  "default: what it looks like");
  arguments.value("-O,--format", &command.target.format,
                  "Format of DST: pcow (default), raw, or one of qemu-img's");
  add_stripe_options(arguments, "DST", &command.target.stripe, &command.stripe_unit);
  arguments.positional("SRC", &command.source, "Image to read, or -",
                       "expecting source and destination file names");
  arguments.positional("DST", &command.target.file, "Image to create, or -",
                       "expecting source and destination file names");
  if (!arguments.parse(args)) return tools::kExitOk;

  check(command);
  command.target.stripe_unit = parse_stripe_unit(command.stripe_unit);
  if (command.to_stdout()) {
    export_to_stdout(command);
  } else if (command.from_stdin()) {
    convert_stream(command);
  } else {
    convert_file(command);
  }
  return tools::kExitOk;
}

}  // namespace pcow_img
