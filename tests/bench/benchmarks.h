// SPDX-License-Identifier: BSD-3-Clause
//
// The benchmarks of tierbench, and the deliberately broken variants that show that a bound can be
// missed.
#pragma once

#include <cstdint>
#include <string>

#include "tests/bench/report.h"

namespace bench {

struct Options {
  unsigned long seed = 0;
  double seconds = 0;  // per row
  bool quick = false;  // smaller memory, shorter rows
  std::string medium;  // directory for images and raw files
  std::string broken;  // a variant of kBreaks, or empty
};

struct Break {
  const char* name;
  const char* benchmark;
  const char* what;
};

inline constexpr Break kBreaks[] = {
    {"software-lookup", "access", "every access goes through a table kept in user space"},
    {"no-huge-pages", "access", "the region gives up the 2 MiB mappings of its medium"},
    {"user-faults", "first-touch", "holes are filled by a user-space fault handler"},
    {"call-each", "epoch-log", "every page is logged by a call of its own"},
    {"no-thread", "first-write", "nothing makes space ahead (on ext4)"},
    {"eager-open", "open", "opening reads the page map of every chunk"},
};

// Random 8-byte reads and writes over a region against the mapping of a raw backend.
void run_access(const Options& options, Report& report);
// The first store to a page against anonymous memory and against user-space faults.
void run_first_touch(const Options& options, Report& report);
// The first write of pages into an image, with and without space ahead of need.
void run_first_write(const Options& options, Report& report);
// Opening and closing a 1 TiB image of which 1 % is allocated.
void run_open(const Options& options, Report& report);
// Creating a snapshot, and opening an image with a thousand.
void run_snapshot(const Options& options, Report& report);
// Epochs through the log against a plain copy, and recovery.
void run_epoch_log(const Options& options, Report& report);
// What epochs cost a guest, in throughput, pauses and processor time.
void run_epochs(const Options& options, Report& report);
// Writing to stripe sets against writing to one file, and the mappings that they cost.
void run_stripe(const Options& options, Report& report);

}  // namespace bench
