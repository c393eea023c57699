// SPDX-License-Identifier: BSD-3-Clause
//
// Opening and closing a 1 TiB image of which 1 % is allocated, by the C boundary that a hypervisor
// uses. Every measurement runs in a child process of its own, so that neither address space nor
// heap is warm.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <tiering/tiering.h>
#include <unistd.h>

#include <pcow/units.h>
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"

namespace bench {
namespace {

using pcow::kPageSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kSize = pcow::kTiB;
constexpr uint64_t kPages = kSize / kPageSize;

// How 1 % of the image is allocated: runs of pages at even distances.
struct Pattern {
  const char* name;
  uint64_t runs;
  uint64_t pages_per_run;
  uint64_t distance;  // pages between the starts of runs
};
constexpr uint64_t kChunks = kSize / pcow::kChunkSize;
constexpr Pattern kPatterns[] = {
    {"contiguous", 1, kPages / 100, kPages},
    {"5 pages in every chunk", kChunks, 5, kPagesPerChunk},
    {"every 100th chunk", kChunks / 100, kPagesPerChunk, 100 * kPagesPerChunk},
};
constexpr double kTimeBoundMs = 10;
constexpr double kMemoryBoundMiB = 16;

struct Measured {
  double open_ms = 0;
  double open_mib = 0;  // growth of the resident set
  double close_ms = 0;
  double close_mib = 0;  // growth of its peak over what it was before opening
  double raw_ms = 0;     // opening and mapping a raw sparse file of the same size
  uint32_t mappings = 0;
};

double mib(uint64_t bytes) { return static_cast<double>(bytes) / static_cast<double>(pcow::kMiB); }
uint64_t growth(uint64_t after, uint64_t before) { return after > before ? after - before : 0; }

void check(int code, const tiering_error& error) {
  if (code != TIERING_OK) fail(error.message);
}

// What a design without O(1) metadata does.
void read_everything(const std::string& path) {
  const auto image = must(pcow::Image::open(path, {}));
  for (uint64_t chunk = 0; chunk < kSize / pcow::kChunkSize; ++chunk) {
    must(image->page_map(pcow::ChunkIndex(chunk)));
  }
}

double open_raw(const std::string& path) {
  const auto start = Clock::now();
  const auto mapped = map_raw(path, kSize, false);
  return seconds_since(start) * 1e3;
}

Measured measure(const std::string& path, const std::string& raw, bool eager) {
  Measured result;
  tiering_error error{};
  tiering_options options{};
  options.struct_size = sizeof options;
  options.image_path = path.c_str();
  options.size_bytes = kSize;
  tiering_region* region = nullptr;
  result.raw_ms = open_raw(raw);

  const uint64_t before = resident_bytes();
  auto start = Clock::now();
  if (eager) read_everything(path);
  check(tiering_region_open(&options, &region, &error), error);
  result.open_ms = seconds_since(start) * 1e3;
  result.open_mib = mib(growth(resident_bytes(), before));

  tiering_status status{};
  status.struct_size = sizeof status;
  check(tiering_region_status(region, &status, &error), error);
  result.mappings = status.mappings;

  start = Clock::now();
  check(tiering_region_shutdown(region, &error), error);
  tiering_region_free(region);
  result.close_ms = seconds_since(start) * 1e3;
  result.close_mib = mib(growth(peak_resident_bytes(), before));
  return result;
}

Measured measure_in_child(const std::string& path, const std::string& raw, bool eager) {
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) fail_errno("cannot make a pipe");
  const pid_t child = fork();
  if (child < 0) fail_errno("cannot fork");
  if (child == 0) {
    try {
      const Measured result = measure(path, raw, eager);
      const bool sent = write(pipe_fds[1], &result, sizeof result) == sizeof result;
      _exit(sent ? 0 : 1);
    } catch (const std::exception& failure) {
      std::fprintf(stderr, "tierbench: %s\n", failure.what());
      _exit(1);
    }
  }
  close(pipe_fds[1]);
  Measured result;
  const bool received = read(pipe_fds[0], &result, sizeof result) == sizeof result;
  close(pipe_fds[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (!received || status != 0) fail("a measuring process failed");
  return result;
}

// Allocates 1 % of the image. Opening never reads a page of data: where the medium is memory that
// is short, the data is dropped again after each step (the pages stay allocated and read as zeros).
void allocate(pcow::Image& image, const Pattern& pattern, bool keep_data) {
  std::vector<std::byte> data(kPageSize, std::byte{0x5a});
  std::vector<pcow::PageWrite> batch;
  const auto flush = [&] {
    must(image.write_pages(batch));
    if (!keep_data) {
      const uint64_t first = batch.front().page.value * kPageSize;
      const uint64_t end = (batch.back().page.value + 1) * kPageSize;
      must(image.map(first, end - first, [&](const pcow::MapExtent& extent) {
        if (!extent.file_offset) return;
        fallocate(image.fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(*extent.file_offset), static_cast<off_t>(extent.length));
      }));
    }
    batch.clear();
  };
  for (uint64_t run = 0; run < pattern.runs; ++run) {
    // Not at the same place of every chunk, where there is room.
    const uint64_t room = kPagesPerChunk - std::min(kPagesPerChunk, pattern.pages_per_run);
    const uint64_t first = run * pattern.distance + (room > 0 ? run * 7 % room : 0);
    for (uint64_t i = 0; i < pattern.pages_per_run; ++i) {
      batch.push_back({pcow::PageIndex(first + i), data.data()});
      if (batch.size() == 16384) flush();
    }
  }
  if (!batch.empty()) flush();
  must(image.commit());
}

void run_pattern(const Options& options, const WorkDirectory& directory, const Pattern& pattern,
                 Report& report) {
  const std::string path = directory.file("image");
  const std::string raw = directory.file("raw");
  const bool keep_data = !options.quick && available_memory() > 14 * pcow::kGiB;
  must(pcow::Image::create(path, {.virtual_size = kSize}));
  {
    const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
    allocate(*image, pattern, keep_data);
    must(image->close());
  }
  const RawFile sparse(raw, kSize);
  std::vector<Measured> all;
  const auto start = Clock::now();
  while (all.size() < 9 || (seconds_since(start) < options.seconds && all.size() < 101)) {
    all.push_back(measure_in_child(path, raw, options.broken == "eager-open"));
  }
  using Field = double Measured::*;
  const auto middle = [&](Field field) {
    std::vector<double> values;
    values.reserve(all.size());
    for (const Measured& one : all) values.push_back(one.*field);
    return median(values);
  };
  const std::string what = std::string("1 TiB, 1 % ") + pattern.name;
  const std::string note =
      std::to_string(all.size()) + " runs, " + std::to_string(all.front().mappings) + " mappings" +
      (keep_data ? "" : "; data dropped after allocation, which opening never reads");
  report.add({.name = "open " + what,
              .value = middle(&Measured::open_ms),
              .unit = "ms",
              .bound = kTimeBoundMs,
              .note = note + "; a raw sparse file takes " +
                      std::to_string(middle(&Measured::raw_ms)) + " ms"});
  report.add({.name = "memory to open " + what,
              .value = middle(&Measured::open_mib),
              .unit = "MiB",
              .bound = kMemoryBoundMiB,
              .note = "growth of the resident set"});
  report.add({.name = "close " + what,
              .value = middle(&Measured::close_ms),
              .unit = "ms",
              .bound = kTimeBoundMs,
              .note = "commit of nothing, clean close and unmapping"});
  report.add({.name = "memory to close " + what,
              .value = middle(&Measured::close_mib),
              .unit = "MiB",
              .bound = kMemoryBoundMiB,
              .note = "peak of the resident set over what it was before opening"});
  unlink(path.c_str());
  unlink(raw.c_str());
}

}  // namespace

void run_open(const Options& options, Report& report) {
  const WorkDirectory directory(options.medium);
  for (const Pattern& pattern : kPatterns) run_pattern(options, directory, pattern, report);
}

}  // namespace bench
