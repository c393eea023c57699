// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/image.h>
#include <nlohmann/json.hpp>
#include <vector>

namespace pcow_img {

// The table that `snapshot -l` and `info` print; nothing if there are none.
void print_snapshots(const std::vector<pcow::SnapshotInfo>& snapshots);
nlohmann::ordered_json snapshots_json(const std::vector<pcow::SnapshotInfo>& snapshots);

}  // namespace pcow_img
