// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "pcow/base/printable.h"
#include "pcow/media/file.h"
#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/snapshot_list.h"

namespace pcow_img {
namespace {

struct InfoCommand {
  tools::Output output = tools::Output::kHuman;
  bool backing_chain = false;
  Consent consent;
  std::string file;
};

// An image, or a raw base, of which there is nothing else to say.
struct Described {
  std::string file;
  std::optional<pcow::ImageInfo> image;
  std::vector<pcow::SnapshotInfo> snapshots;
  pcow::ImageInfo raw;
};

Described describe_image(const std::string& file, bool force_share) {
  const auto image = open_to_describe(file, force_share);
  const pcow::ImageInfo info = image->info();
  if (info.error) throw tools::Failure(info.error->message);
  return {file, info, tools::value_or_fail(image->snapshots()), {}};
}

Described describe_raw(const std::string& file) {
  const auto opened = tools::value_or_fail(pcow::File::open(file, pcow::File::Mode::kRead));
  Described described{file, {}, {}, {}};
  described.raw.virtual_size = tools::value_or_fail(opened.size());
  described.raw.disk_bytes = tools::value_or_fail(opened.disk_bytes());
  return described;
}

std::vector<Described> describe(const InfoCommand& command) {
  std::vector<pcow::BaseInfo> chain;
  if (command.backing_chain) chain = open_for_reading(command.file, command.consent)->info().chain;
  std::vector<Described> all = {describe_image(command.file, command.consent.force_share)};
  for (const pcow::BaseInfo& base : chain) {
    all.push_back(base.format == pcow::BaseFormat::kRaw
                      ? describe_raw(base.full_path)
                      : describe_image(base.full_path, command.consent.force_share));
  }
  return all;
}

nlohmann::ordered_json stripe_json(const std::vector<pcow::StripeFile>& files) {
  auto list = nlohmann::ordered_json::array();
  for (const pcow::StripeFile& file : files) {
    list.push_back({{"filename", file.name},
                    {"full-filename", file.full_path},
                    {"actual-size", file.disk_bytes}});
  }
  return list;
}

// The keys of qemu-img's ImageInfo, what is ours under format-specific.
nlohmann::ordered_json json_of(const Described& described) {
  auto image = nlohmann::ordered_json::object();
  const pcow::ImageInfo& info = described.image ? *described.image : described.raw;
  image["virtual-size"] = info.virtual_size;
  image["filename"] = described.file;
  if (!described.image) {
    image["format"] = "raw";
    image["actual-size"] = info.disk_bytes;
    return image;
  }
  image["cluster-size"] = pcow::kPageSize;
  image["format"] = "pcow";
  image["actual-size"] = info.disk_bytes;
  if (info.base) {
    image["full-backing-filename"] = info.base->full_path;
    image["backing-filename"] = info.base->path;
    image["backing-filename-format"] = pcow::base_format_name(info.base->format);
  }
  image["dirty-flag"] = !info.clean;
  if (!described.snapshots.empty()) image["snapshots"] = snapshots_json(described.snapshots);

  auto data = nlohmann::ordered_json::object();
  data["version"] = info.format_version;
  data["uuid"] = info.uuid;
  data["generation"] = info.generation;
  data["committed-epoch"] = info.committed_epoch.value;
  data["allocated-size"] = info.allocated_bytes;
  data["log-size"] = info.log_size;
  data["chunk-size"] = pcow::kChunkSize;
  if (!info.stripe.empty()) {
    data["stripe"] = stripe_json(info.stripe);
    data["stripe-unit"] = info.stripe_unit;
  }
  data["medium"] = pcow::granularity_name(info.granularity);
  data["log-replayed"] = info.recovered;
  data["corrupt"] = info.marked_corrupt;
  data["warnings"] = info.warnings;
  image["format-specific"] = {{"type", "pcow"}, {"data", std::move(data)}};
  return image;
}

void print_json(const InfoCommand& command, const std::vector<Described>& all) {
  nlohmann::ordered_json json;
  if (command.backing_chain) {
    json = nlohmann::ordered_json::array();
    for (const Described& described : all) json.push_back(json_of(described));
  } else {
    json = json_of(all.front());
  }
  std::printf("%s\n", tools::json_text(json).c_str());
}

void print_sizes(const Described& described, const char* format, const pcow::ImageInfo& info) {
  std::printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
              pcow::printable(described.file).c_str(), format,
              pcow::format_size(info.virtual_size).c_str(),
              static_cast<unsigned long long>(info.virtual_size),
              pcow::format_size(info.disk_bytes).c_str());
}

void print_stripe(const pcow::ImageInfo& info) {
  if (info.stripe.empty()) return;
  std::printf("    stripe: %s in each of %zu files in turn\n",
              pcow::format_size(info.stripe_unit).c_str(), info.stripe.size());
  for (const pcow::StripeFile& file : info.stripe) {
    std::printf("        %s (disk size: %s)\n", pcow::printable(file.name).c_str(),
                pcow::format_size(file.disk_bytes).c_str());
  }
}

void print_human(const Described& described, bool force_share) {
  if (!described.image) return print_sizes(described, "raw", described.raw);
  const pcow::ImageInfo& info = *described.image;
  print_sizes(described, "pcow", info);
  if (!info.clean) {
    std::printf("cleanly shut down: no (%s)\n",
                force_share ? "it may be in use" : "the next writable open recovers the image");
  }
  std::printf("cluster_size: %llu\n", static_cast<unsigned long long>(pcow::kPageSize));
  if (info.base) {
    const std::string path = pcow::printable(info.base->path);
    const std::string full_path = pcow::printable(info.base->full_path);
    std::printf("backing file: %s", path.c_str());
    if (path != full_path) std::printf(" (actual path: %s)", full_path.c_str());
    std::printf("\nbacking file format: %s\n",
                std::string(pcow::base_format_name(info.base->format)).c_str());
  }
  print_snapshots(described.snapshots);
  std::printf("Format specific information:\n    version: %u\n    uuid: %s\n    generation: %llu\n",
              info.format_version, info.uuid.c_str(),
              static_cast<unsigned long long>(info.generation));
  std::printf("    committed epoch: %llu\n    allocated: %s (%llu bytes)\n    log size: %s\n",
              static_cast<unsigned long long>(info.committed_epoch.value),
              pcow::format_size(info.allocated_bytes).c_str(),
              static_cast<unsigned long long>(info.allocated_bytes),
              pcow::format_size(info.log_size).c_str());
  print_stripe(info);
  const std::string medium(pcow::granularity_name(info.granularity));
  std::printf("    medium: %s\n", medium.c_str());
  if (info.marked_corrupt) std::printf("    corrupt: true\n");
  if (info.recovered) {
    std::printf("    log: replayed in memory for this report; the file is unchanged\n");
  }
}

}  // namespace

int run_info(const std::vector<std::string>& args) {
  InfoCommand command;
  tools::Arguments arguments("pcow-img info",
                             "Describes an image. Never writes to it, even when it was not closed "
                             "cleanly: then the figures are those after recovery.");
  arguments.output(&command.output);
  arguments.flag("--backing-chain", &command.backing_chain,
                 "Describe its base, and the base of that, as well");
  add_consent_options(arguments, &command.consent, "Read an image that is in use");
  arguments.positional("FILE", &command.file, "Image to describe", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;
  if (command.consent.allow_base && !command.backing_chain) {
    throw tools::UsageError("--allow-base goes with --backing-chain: only then is a base read");
  }

  const std::vector<Described> all = describe(command);
  if (command.output == tools::Output::kJson) {
    print_json(command, all);
  } else {
    for (const Described& described : all) {
      if (&described != &all.front()) std::printf("\n");
      print_human(described, command.consent.force_share);
    }
  }
  for (const Described& described : all) {
    if (!described.image) continue;
    for (const std::string& warning : described.image->warnings) {
      std::fprintf(stderr, "pcow-img: warning: %s\n", warning.c_str());
    }
  }
  return tools::kExitOk;
}

}  // namespace pcow_img
