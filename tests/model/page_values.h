// SPDX-License-Identifier: BSD-3-Clause
//
// Content of pages, named by a number: 0 is zero.
#pragma once

#include <pcow/image.h>
#include <algorithm>
#include <cstdint>
#include <random>

#include "tests/support/image_fixture.h"

namespace pcow {

// Values from here on stand for pages some of whose lines differ from those of another.
inline constexpr uint64_t kMixed = uint64_t{1} << 63;
inline constexpr uint64_t kValueBits = 20;
inline uint64_t mixed(uint64_t base, uint64_t other, uint64_t lines) {
  return kMixed | lines << 2 * kValueBits | other << kValueBits | base;
}
inline test::Page content(uint64_t value) {
  if (value == 0) return test::Page(kPageSize);
  if ((value & kMixed) == 0) return test::pattern_page(value);
  constexpr uint64_t kMask = (1 << kValueBits) - 1;
  test::Page page = content(value & kMask);
  const test::Page other = content(value >> kValueBits & kMask);
  std::mt19937 lines(static_cast<uint32_t>(value >> 2 * kValueBits & kMask));
  for (size_t line = 0; line < kLinesPerPage; ++line) {
    if (lines() % 4 != 0) continue;
    std::copy_n(other.begin() + static_cast<std::ptrdiff_t>(line * kLineSize), kLineSize,
                page.begin() + static_cast<std::ptrdiff_t>(line * kLineSize));
  }
  return page;
}

}  // namespace pcow
