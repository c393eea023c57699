// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace golden {

// A part of an image file that one rule of the format protects.
struct Target {
  std::string name;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Every metadata structure of an image with one layer, found by following the offsets of
// pcow/FORMAT.md from the superblock on; nothing of the engine is used. `image_fd` is readable.
std::vector<Target> metadata_targets(int image_fd);

// The parts of metadata slots that the format reserves: zero, and to be found when they are not.
std::vector<Target> reserved_targets(int image_fd);

// The log, as superblock copy 0 says.
Target log_target(int image_fd);

}  // namespace golden
