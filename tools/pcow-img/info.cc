// SPDX-License-Identifier: BSD-3-Clause
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/snapshot_list.h"

namespace pcow_img {
namespace {

// The keys of qemu-img's ImageInfo, what is ours under format-specific.
void print_json(const pcow::ImageInfo& info, const std::vector<pcow::SnapshotInfo>& snapshots,
                const std::string& file) {
  nlohmann::ordered_json data;
  data["version"] = info.format_version;
  data["uuid"] = info.uuid;
  data["generation"] = info.generation;
  data["committed-epoch"] = info.committed_epoch.value;
  data["allocated-size"] = info.allocated_bytes;
  data["log-size"] = info.log_size;
  data["chunk-size"] = pcow::kChunkSize;
  data["medium"] = pcow::granularity_name(info.granularity);
  data["log-replayed"] = info.recovered;
  data["warnings"] = info.warnings;

  nlohmann::ordered_json image;
  image["virtual-size"] = info.virtual_size;
  image["filename"] = file;
  image["cluster-size"] = pcow::kPageSize;
  image["format"] = "pcow";
  image["actual-size"] = info.disk_bytes;
  image["dirty-flag"] = !info.clean;
  if (!snapshots.empty()) image["snapshots"] = snapshots_json(snapshots);
  image["format-specific"]["type"] = "pcow";
  image["format-specific"]["data"] = std::move(data);
  std::printf("%s\n", tools::json_text(image).c_str());
}

void print_human(const pcow::ImageInfo& info, const std::vector<pcow::SnapshotInfo>& snapshots,
                 const std::string& file, bool force_share) {
  std::printf("image: %s\nfile format: pcow\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
              file.c_str(), pcow::format_size(info.virtual_size).c_str(),
              static_cast<unsigned long long>(info.virtual_size),
              pcow::format_size(info.disk_bytes).c_str());
  if (!info.clean) {
    std::printf("cleanly shut down: no (%s)\n",
                force_share ? "it may be in use" : "the next writable open recovers the image");
  }
  std::printf("cluster_size: %llu\n", static_cast<unsigned long long>(pcow::kPageSize));
  print_snapshots(snapshots);
  std::printf("Format specific information:\n    version: %u\n    uuid: %s\n    generation: %llu\n",
              info.format_version, info.uuid.c_str(),
              static_cast<unsigned long long>(info.generation));
  std::printf("    committed epoch: %llu\n    allocated: %s (%llu bytes)\n    log size: %s\n",
              static_cast<unsigned long long>(info.committed_epoch.value),
              pcow::format_size(info.allocated_bytes).c_str(),
              static_cast<unsigned long long>(info.allocated_bytes),
              pcow::format_size(info.log_size).c_str());
  const std::string medium(pcow::granularity_name(info.granularity));
  std::printf("    medium: %s\n", medium.c_str());
  if (info.recovered) {
    std::printf("    log: replayed in memory for this report; the file is unchanged\n");
  }
}

}  // namespace

int run_info(const std::vector<std::string>& args) {
  tools::Output output = tools::Output::kHuman;
  bool force_share = false;
  std::string file;
  tools::Arguments arguments("pcow-img info",
                             "Describes an image. Never writes to it, even when it was not closed "
                             "cleanly: then the figures are those after recovery.");
  arguments.output(&output);
  arguments.flag("-U,--force-share", &force_share, "Read an image that is in use");
  arguments.positional("FILE", &file, "Image to describe", "expecting image file name");
  if (!arguments.parse(args)) return tools::kExitOk;

  const auto image = open_for_reading(file, force_share);
  const pcow::ImageInfo info = image->info();
  const auto snapshots = tools::value_or_fail(image->snapshots());
  if (output == tools::Output::kJson) {
    print_json(info, snapshots, file);
  } else {
    print_human(info, snapshots, file, force_share);
  }
  for (const std::string& warning : info.warnings) {
    std::fprintf(stderr, "pcow-img: warning: %s\n", warning.c_str());
  }
  return tools::kExitOk;
}

}  // namespace pcow_img
