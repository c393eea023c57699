// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/snapshot_list.h"

#include <algorithm>
#include <cstdio>

#include "pcow/base/printable.h"
#include "tools/common/date_text.h"

namespace pcow_img {
namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;

}  // namespace

void print_snapshots(const std::vector<pcow::SnapshotInfo>& snapshots) {
  if (snapshots.empty()) return;
  std::printf("Snapshot list:\n%-8s%-24s%14s%12s%21s%8s\n", "ID", "TAG", "VIRTUAL SIZE", "OWN DATA",
              "DATE", "EPOCH");
  for (const pcow::SnapshotInfo& snapshot : snapshots) {
    std::printf(
        "%-8llu%-24s%14s%12s%21s%8llu\n", static_cast<unsigned long long>(snapshot.id.value),
        pcow::printable(snapshot.name).c_str(), pcow::format_size(snapshot.virtual_size).c_str(),
        pcow::format_size(snapshot.allocated_bytes).c_str(),
        tools::date_text(snapshot.created_ns).c_str(),
        static_cast<unsigned long long>(snapshot.epoch.value));
  }
}

nlohmann::ordered_json snapshots_json(const std::vector<pcow::SnapshotInfo>& snapshots) {
  auto list = nlohmann::ordered_json::array();
  for (const pcow::SnapshotInfo& snapshot : snapshots) {
    auto entry = nlohmann::ordered_json::object();
    entry["id"] = std::to_string(snapshot.id.value);
    entry["name"] = snapshot.name;
    entry["date-sec"] = snapshot.created_ns / kNsPerSecond;
    entry["date-nsec"] = snapshot.created_ns % kNsPerSecond;
    if (snapshot.parent) entry["parent-id"] = std::to_string(snapshot.parent->value);
    entry["virtual-size"] = snapshot.virtual_size;
    entry["allocated-size"] = snapshot.allocated_bytes;
    entry["committed-epoch"] = snapshot.epoch.value;
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace pcow_img
