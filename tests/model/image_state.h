// SPDX-License-Identifier: BSD-3-Clause
//
// What an image has to show.
#pragma once

#include <gtest/gtest.h>
#include <pcow/image.h>
#include <cstdint>
#include <map>

#include "tests/model/page_values.h"
#include "tests/support/image_fixture.h"

namespace pcow {

struct ImageState {
  uint64_t size = 8 * kGiB;
  std::map<uint64_t, uint64_t> pages;  // page → value; absent: zero
};

inline void compare_all(const Image& image, const ImageState& state) {
  ASSERT_EQ(image.virtual_size(), state.size);
  std::map<uint64_t, bool> data;
  ASSERT_OK(image.map(0, state.size, [&](const MapExtent& run) {
    for (uint64_t at = run.start; at < run.start + run.length && run.data; at += kPageSize) {
      data[at / kPageSize] = true;
    }
  }));
  for (const auto& [page, value] : state.pages) {
    ASSERT_EQ(test::read_page(image, page), content(value)) << page;
    ASSERT_TRUE(value == 0 || data.contains(page)) << page;
  }
  // A page that is data is one that was written, or hides one of an older snapshot.
  for (const auto& [page, unused] : data) {
    if (state.pages.contains(page)) continue;
    ASSERT_EQ(test::read_page(image, page), content(0)) << page;
  }
}

}  // namespace pcow
