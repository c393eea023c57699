// SPDX-License-Identifier: BSD-3-Clause
//
// What tests of the C boundary share: a region of 64 MiB, and a hypervisor.
#pragma once

#include <gtest/gtest.h>
#include <tiering/tiering.h>

#include <atomic>
#include <future>
#include <mutex>
#include <string>

#include "tests/support/image_fixture.h"

namespace tiering::testing {

inline constexpr uint64_t kSize = 64 * pcow::kMiB;

class CApiTest : public ::testing::Test {
 protected:
  CApiTest() { test::create_image(path_, kSize); }
  ~CApiTest() override { tiering_region_free(region_); }

  tiering_options options() const {
    tiering_options options{};
    options.struct_size = sizeof options;
    options.image_path = path_.c_str();
    options.size_bytes = kSize;
    options.dump = true;
    return options;
  }
  int open(const tiering_options& options) {
    const int code = tiering_region_open(&options, &region_, &error_);
    EXPECT_EQ(region_ != nullptr, code == TIERING_OK);
    return code;
  }
  // Opening fails with this code and a message that holds this text.
  void expect_refused(const tiering_options& options, int code, const std::string& text) {
    EXPECT_EQ(open(options), code);
    EXPECT_EQ(error_.code, code);
    EXPECT_NE(std::string(error_.message).find(text), std::string::npos) << error_.message;
  }
  tiering_status status() {
    tiering_status status{};
    status.struct_size = sizeof status;
    EXPECT_EQ(tiering_region_status(region_, &status, &error_), TIERING_OK) << error_.message;
    return status;
  }
  char* base() { return static_cast<char*>(tiering_region_base(region_)); }

  test::TempDir directory_;
  std::string path_ = directory_.file("vm.pcow");
  tiering_region* region_ = nullptr;
  tiering_error error_{};
};

// A hypervisor whose guest is the test itself, quiet when it does not store.
struct Hypervisor {
  static bool while_quiet(void* opaque, void (*body)(void*), void* argument) {
    auto* self = static_cast<Hypervisor*>(opaque);
    const std::lock_guard quiet(self->guest);
    ++self->barriers;
    body(argument);
    return true;
  }
  static void epoch_failed(void* opaque, int, const char*, bool) {
    ++static_cast<Hypervisor*>(opaque)->failures;
  }
  static void epochs_recovered(void* opaque) { ++static_cast<Hypervisor*>(opaque)->recoveries; }
  tiering_epoch_options options() {
    tiering_epoch_options options{};
    options.struct_size = sizeof options;
    options.opaque = this;
    options.min_ms = options.max_ms = 3'600'000;
    options.while_quiet = while_quiet;
    options.epoch_failed = epoch_failed;
    options.epochs_recovered = epochs_recovered;
    return options;
  }

  std::mutex guest;
  std::atomic<int> barriers{0};
  std::atomic<int> failures{0};
  std::atomic<int> recoveries{0};
};

inline void set_code(void* opaque, int code, const char*) {
  static_cast<std::promise<int>*>(opaque)->set_value(code);
}

}  // namespace tiering::testing
