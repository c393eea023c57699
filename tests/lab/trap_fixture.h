// SPDX-License-Identifier: BSD-3-Clause
//
// What the tests of kernel traps share. Each trap has one check function, which runs twice: with
// the product as it is, where it has to pass, and with exactly that care removed, where it has to
// fail. The second run shows that the check can see the trap and that the kernel still has it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pcow/image.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "tests/lab/child_check.h"
#include "tests/unit/tiering/fixture.h"
#include "tiering/region_impl.h"

namespace lab {

enum class Care { kTaken, kRemoved };

inline void expect_equal(uint64_t found, uint64_t wanted, const std::string& what) {
  if (found == wanted) return;
  throw CheckFailed(what + ": " + std::to_string(found) + " instead of " + std::to_string(wanted));
}

// An image for one check, in the child process that runs it.
inline std::unique_ptr<pcow::Image> open_image(const std::string& path) {
  return tiering::testing::must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
}

inline std::unique_ptr<pcow::Image> create_image(const std::string& path, uint64_t size) {
  tiering::testing::must(pcow::Image::create(path, {.virtual_size = size, .overwrite = true}));
  return open_image(path);
}

// Creates an image that owns the first `pages` pages, page i with mark i + 1.
std::unique_ptr<pcow::Image> create_filled_image(const std::string& path, uint64_t size,
                                                 uint64_t pages);

class KernelTrapTest : public ::testing::Test {
 protected:
  std::string image_path() const { return directory_.file("vm.pcow"); }

  // Whether files in the test directory are mapped without a page cache, as the file system says.
  bool medium_is_dax() const;

  // The product must pass the check.
  static void expect_passes(const Check& check) { EXPECT_EQ(run_in_child(check), ""); }
  // Without the care the check must fail, and so that `symptom`, a regular expression, is in the
  // message.
  static void expect_trap(const std::string& trap, const Check& check, const std::string& symptom) {
    const std::string outcome = run_in_child(check);
    EXPECT_NE(outcome, "") << "this kernel no longer has the trap \"" << trap << "\"";
    if (outcome.empty()) return;
    EXPECT_THAT(outcome, ::testing::ContainsRegex(symptom));
    std::printf("without the care: %s\n", outcome.c_str());
  }

 private:
  test::TempDir directory_;
};

}  // namespace lab
