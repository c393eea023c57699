// SPDX-License-Identifier: BSD-3-Clause
//
// What the tests of tiering/ share: an image in a directory of its own, and short forms that end a
// test on any error.
#pragma once

#include <gtest/gtest.h>

#include <pcow/image.h>
#include <tiering/region.h>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "tests/support/temp_dir.h"
#include "tiering/kernel/vma_list.h"

namespace tiering::testing {

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) throw std::runtime_error(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

class ImageTest : public ::testing::Test {
 protected:
  void create(uint64_t size) {
    must(pcow::Image::create(path(), {.virtual_size = size}));
    open();
  }
  void open() { image_ = must(pcow::Image::open(path(), {.access = pcow::Access::kReadWrite})); }
  // Without closing: the image is left as after a crash.
  void drop() { image_.reset(); }
  void close() {
    must(image_->close());
    image_.reset();
  }
  std::string path() const { return directory_.file("vm.pcow"); }
  pcow::Image& image() { return *image_; }

 private:
  test::TempDir directory_;
  std::unique_ptr<pcow::Image> image_;
};

inline std::unique_ptr<Region> map_region(pcow::Image& image, const RegionOptions& options = {}) {
  return must(Region::map(image, options));
}

// A page is marked by one word at an odd place.
inline constexpr uint64_t kMarkOffset = 1000;

inline void set_mark(Region& region, uint64_t page, uint64_t value) {
  std::memcpy(region.base() + page * pcow::kPageSize + kMarkOffset, &value, sizeof value);
}

inline uint64_t mark(const Region& region, uint64_t page) {
  uint64_t value = 0;
  std::memcpy(&value, region.base() + page * pcow::kPageSize + kMarkOffset, sizeof value);
  return value;
}

// The same from the image.
inline uint64_t image_mark(const pcow::Image& image, uint64_t page) {
  uint64_t value = 0;
  must(image.read(page * pcow::kPageSize + kMarkOffset,
                  std::as_writable_bytes(std::span(&value, 1))));
  return value;
}

inline uint64_t kernel_mappings(const Region& region) {
  const auto start = reinterpret_cast<uintptr_t>(region.base());
  return must(kernel::mappings_in(start, start + region.size())).size();
}

}  // namespace tiering::testing
