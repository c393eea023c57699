// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {

namespace {

std::unique_ptr<pcow::Image> open(const std::string& file, const pcow::OpenOptions& options) {
  auto image = pcow::Image::open(file, options);
  if (!image) throw tools::Failure(message_with_option(image.error()));
  return *std::move(image);
}

}  // namespace

void add_consent_options(tools::Arguments& arguments, Consent* consent, const std::string& use) {
  add_allow_base_option(arguments, &consent->allow_base);
  arguments.flag("-U,--force-share", &consent->force_share, use);
}

void add_allow_base_option(tools::Arguments& arguments, bool* allow_base) {
  arguments.flag("--allow-base", allow_base,
                 "Read the base that an image names, and the base of that, too");
}

uint64_t current_size(const std::string& file) {
  pcow::OpenOptions options;
  options.replay_in_memory = true;
  options.base = pcow::BaseAccess::kIgnore;
  return tools::value_or_fail(pcow::Image::open(file, options))->virtual_size();
}

std::unique_ptr<pcow::Image> open_for_changing(const std::string& file, bool quiet,
                                               pcow::BaseAccess base) {
  pcow::OpenOptions options;
  options.access = pcow::Access::kReadWrite;
  options.base = base;
  auto image = pcow::Image::open(file, options);
  if (!image) throw tools::Failure(message_with_allow_base(image.error()));
  const pcow::ImageInfo info = (*image)->info();
  if (info.recovered && !quiet) {
    std::fprintf(stderr,
                 "pcow-img: note: '%s' was not closed cleanly and has been recovered to epoch "
                 "%llu\n",
                 file.c_str(), static_cast<unsigned long long>(info.committed_epoch.value));
  }
  return *std::move(image);
}

pcow::BaseAccess base_access(bool allow_base) {
  return allow_base ? pcow::BaseAccess::kFollow : pcow::BaseAccess::kRefuse;
}

std::optional<pcow::Base> parse_base(const std::string& path, const std::string& format) {
  if (path.empty()) {
    if (!format.empty()) throw tools::UsageError("-F goes with -b");
    return std::nullopt;
  }
  pcow::Base base{path, pcow::BaseFormat::kPcow};
  if (format == "raw") {
    base.format = pcow::BaseFormat::kRaw;
  } else if (!format.empty() && format != "pcow") {
    throw tools::UsageError("unknown format '" + format + "' of the base: 'pcow' or 'raw'");
  }
  return base;
}

void add_stripe_options(tools::Arguments& arguments, const std::string& first,
                        std::vector<std::string>* stripe, std::string* unit) {
  arguments.values("--stripe", stripe,
                   "Another file to stripe over, its path from the directory of " + first +
                       "; 1, 3, 7 or 15 times");
  arguments.value("--stripe-unit", unit,
                  "What lies in one file before the next takes its turn: 2M times a power of two");
}

uint64_t parse_stripe_unit(const std::string& text) {
  if (text.empty()) return 0;
  const uint64_t unit = parse_size_argument("--stripe-unit", text);
  if (unit == 0) throw tools::UsageError("--stripe-unit: 0 is not possible");
  return unit;
}

bool is_there(const std::string& file) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::symlink_status(file, error));
}

std::unique_ptr<pcow::Image> open_to_describe(const std::string& file, bool force_share) {
  pcow::OpenOptions options;
  options.force_share = force_share;
  options.replay_in_memory = true;
  options.base = pcow::BaseAccess::kIgnore;
  return open(file, options);
}

std::unique_ptr<pcow::Image> open_for_reading(const std::string& file, const Consent& consent,
                                              const std::string& snapshot) {
  pcow::OpenOptions options;
  options.force_share = consent.force_share;
  options.replay_in_memory = true;
  options.base = base_access(consent.allow_base);
  if (!snapshot.empty()) options.snapshot = snapshot;
  auto image = open(file, options);
  for (const std::string& warning : image->info().warnings) {
    std::fprintf(stderr, "pcow-img: warning: %s\n", warning.c_str());
  }
  return image;
}

std::string message_with_option(const pcow::Error& error) {
  if (error.code == pcow::Code::kBusy) {
    return error.message + "\nUse -U to read it all the same; what is read may be changing";
  }
  return message_with_allow_base(error);
}

std::string message_with_allow_base(const pcow::Error& error) {
  // Not what the file system did not permit.
  if (error.code == pcow::Code::kPermission && error.sys_errno == 0) {
    return error.message +
           "\nUse --allow-base to read it, if you know where the image comes from: it could name "
           "any file as its base";
  }
  return error.message;
}

uint64_t parse_size_argument(const std::string& what, const std::string& text) {
  auto size = pcow::parse_size(text);
  if (!size) throw tools::UsageError(what + ": " + size.error().message);
  return *size;
}

void check_virtual_size(const std::string& doing, uint64_t size) {
  if (size >= pcow::kMinVirtualSize && size <= pcow::kMaxVirtualSize &&
      size % pcow::kChunkSize == 0) {
    return;
  }
  throw tools::Failure(doing + ": a virtual size of " + std::to_string(size) +
                       " bytes is not possible; give a multiple of 2M, from 2M to 32T");
}

}  // namespace pcow_img
