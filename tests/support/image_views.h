// SPDX-License-Identifier: BSD-3-Clause
//
// What readers see of an image, and what is in its file: to compare before and after.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tests/support/image_fixture.h"

namespace test {

// Of the image, or of one of its snapshots.
struct View {
  uint64_t size = 0;
  std::map<uint64_t, Page> pages;  // that hold data
  bool operator==(const View&) const = default;
};
using Views = std::map<std::string, View>;  // by the name of the snapshot; the image has none

// An unclean image as its log leaves it. Fails the test when something cannot be read.
Views views_of(const std::string& path);

// All bytes that are not in holes, and the space they take.
struct FileContent {
  std::map<uint64_t, pcow::format::Block> pages;
  int64_t blocks = 0;
  bool operator==(const FileContent&) const = default;
};
FileContent content_of(const std::string& path);

// Changes one bit.
void flip_bit(const std::string& path, uint64_t offset);

}  // namespace test
