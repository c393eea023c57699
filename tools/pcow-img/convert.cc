// SPDX-License-Identifier: BSD-3-Clause
//
// Every conversion goes through guest memory: a Content is copied to a Writer. Formats that only
// qemu-img knows are unpacked into, or packed from, a sparse raw file beside the destination.
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
#include "tools/pcow-img/writer.h"

namespace pcow_img {
namespace {

struct ConvertCommand {
  bool quiet = false;
  bool progress = false;
  bool force = false;
  Consent consent;
  std::string source_format;
  std::string format = "pcow";
  std::string source;
  std::string file;

  bool from_stdin() const { return source == "-"; }
  bool to_stdout() const { return file == "-"; }
};

// A stream has no size to create an image with.
constexpr uint64_t kFirstSize = pcow::kGiB;

bool is_foreign(const std::string& format) {
  return !format.empty() && format != "pcow" && format != "raw" && format != "nbjl";
}

void check(const ConvertCommand& command) {
  if (command.from_stdin() && command.source_format != "raw") {
    throw tools::UsageError("the standard input must be raw: say so with -f raw");
  }
  if (command.to_stdout() && command.format != "raw") {
    throw tools::UsageError("the standard output must be raw: say so with -O raw");
  }
  if (command.to_stdout() && command.progress) {
    throw tools::UsageError("-p writes to the standard output, which is the destination here");
  }
  if (command.to_stdout() && isatty(STDOUT_FILENO) == 1) {
    throw tools::UsageError("the standard output is a terminal: connect it to a pipe or a file");
  }
  if (command.format == "nbjl") throw tools::Failure("images in format 'nbjl' are only read");
  if (command.to_stdout() && is_foreign(command.source_format)) {
    throw tools::Failure("'" + command.source_format +
                         "' cannot be written to the standard output: name a file");
  }
  std::error_code error;
  if (std::filesystem::equivalent(command.source, command.file, error)) {
    throw tools::Failure("'" + command.source + "' and '" + command.file + "' are the same file");
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

void convert_stream(const ConvertCommand& command) {
  const tools::SignalHold hold;
  NewFile file(command.file, command.force);
  const auto writer = create_pcow_writer(file.path(), kFirstSize);
  const uint64_t size = copy_stream(STDIN_FILENO, *writer, hold);
  file.publish();
  note_rounding(command, size, pcow::round_up(size, pcow::kChunkSize));
}

void export_to_stdout(const ConvertCommand& command) {
  const auto content = open_content(command.source, command.source_format, command.consent);
  tools::Progress progress(false);
  const auto writer = make_stream_writer(STDOUT_FILENO, "the standard output", content->size());
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

std::unique_ptr<Writer> create_writer(const ConvertCommand& command, const std::string& path,
                                      uint64_t size) {
  if (command.format != "pcow") return create_raw_writer(path, size);
  const uint64_t rounded = pcow::round_up(size, pcow::kChunkSize);
  check_virtual_size("cannot create '" + command.file + "'", rounded);
  note_rounding(command, size, rounded);
  return create_pcow_writer(path, rounded);
}

void convert_file(const ConvertCommand& command) {
  const tools::SignalHold hold;
  NewFile file(command.file, command.force);
  std::optional<ScratchFile> unpacked;
  std::optional<ScratchFile> to_pack;
  if (is_foreign(command.source_format)) unpacked.emplace(command.file);
  if (is_foreign(command.format)) to_pack.emplace(command.file);

  const auto content = open_source(command, unpacked ? &*unpacked : nullptr, hold);
  if (content->size() == 0) throw tools::Failure("'" + command.source + "' is empty");
  tools::Progress progress(command.progress && !command.quiet);
  const auto writer =
      create_writer(command, to_pack ? to_pack->path() : file.path(), content->size());
  copy_content(*content, *writer, progress, &hold);
  if (to_pack) QemuImg(command.format, hold).pack(to_pack->path(), file.path());
  file.publish();
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
  arguments.flag("--force", &command.force, "Replace DST if it exists and is not in use");
  add_consent_options(arguments, &command.consent, "Read an image that is in use");
  arguments.value("-f,--source-format", &command.source_format,
                  "Format of SRC: pcow, raw, nbjl (the published pcow), or one of qemu-img's; "
                  "default: what it looks like");
  arguments.value("-O,--format", &command.format,
                  "Format of DST: pcow (default), raw, or one of qemu-img's");
  arguments.positional("SRC", &command.source, "Image to read, or -",
                       "expecting source and destination file names");
  arguments.positional("DST", &command.file, "Image to create, or -",
                       "expecting source and destination file names");
  if (!arguments.parse(args)) return tools::kExitOk;

  check(command);
  if (command.from_stdin()) {
    convert_stream(command);
  } else if (command.to_stdout()) {
    export_to_stdout(command);
  } else {
    convert_file(command);
  }
  return tools::kExitOk;
}

}  // namespace pcow_img
