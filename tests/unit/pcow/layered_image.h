// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/image_fixture.h"
#include "tests/support/temp_dir.h"

namespace pcow {

// Two GiBs with pages of the image and of its snapshots "old" and "new", among them pages that hide
// others.
class LayeredImageTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kSize = 3 * kGiB;

  void make_image() {
    test::create_image(path_, kSize, format::kMinLogSize);
    const auto image = test::open_image(path_);
    write(*image, {0, 7, 512, kPagesPerSegment + 3}, 1);
    ASSERT_OK(image->create_snapshot("old"));
    write(*image, {0, 8, 5 * kPagesPerChunk, kPagesPerSegment}, 2);
    ASSERT_OK(image->create_snapshot("new"));
    write(*image, {0, 9, 512}, 3);
    ASSERT_OK(image->close());
  }

  static void write(Image& image, const std::vector<uint64_t>& pages, uint64_t round) {
    for (const uint64_t page : pages) {
      test::write_page(image, page, test::pattern_page(page * 16 + round));
    }
    ASSERT_OK(image.commit());
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

}  // namespace pcow
