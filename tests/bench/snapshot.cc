// SPDX-License-Identifier: BSD-3-Clause
//
// Snapshots: how long one takes, and what a thousand of them cost whoever opens the image.
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"

namespace bench {
namespace {

constexpr double kSnapshotBoundMs = 5;
constexpr double kOpenBound = 2;
constexpr uint64_t kSnapshots = 1000;

std::unique_ptr<pcow::Image> create_filled(const std::string& path, uint64_t size,
                                           uint64_t filled) {
  must(pcow::Image::create(path, {.virtual_size = size}));
  auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
  if (filled > 0) fill_image(*image, 0, filled);
  must(image->commit());
  return image;
}

void measure_creation(const Options& options, const WorkDirectory& directory, uint64_t size,
                      uint64_t filled, Report& report) {
  const std::string path = directory.file("image");
  const auto image = create_filled(path, size, filled);
  std::vector<double> times;
  const auto start = Clock::now();
  while (times.size() < 9 || (seconds_since(start) < options.seconds && times.size() < 101)) {
    const auto before = Clock::now();
    must(image->create_snapshot("snapshot"));
    times.push_back(seconds_since(before) * 1e3);
    must(image->delete_snapshot("snapshot"));
  }
  must(image->close());
  report.add({.name = "snapshot of " + pcow::format_size(size) + " with " +
                      pcow::format_size(filled) + " allocated",
              .value = median(times),
              .unit = "ms",
              .bound = kSnapshotBoundMs,
              .note = std::to_string(times.size()) + " runs, " +
                      std::to_string(*std::max_element(times.begin(), times.end())) +
                      " ms at most"});
  unlink(path.c_str());
}

double open_ms(const std::string& path) {
  const auto start = Clock::now();
  must(pcow::Image::open(path, {}));
  return seconds_since(start) * 1e3;
}

void measure_opening(const Options& options, const WorkDirectory& directory, Report& report) {
  const std::string plain = directory.file("plain");
  const std::string many = directory.file("many");
  constexpr uint64_t kSize = 64 * pcow::kGiB;
  must(create_filled(plain, kSize, 64 * pcow::kMiB)->close());
  {
    const auto image = create_filled(many, kSize, 64 * pcow::kMiB);
    for (uint64_t n = 0; n < kSnapshots; ++n) must(image->create_snapshot(std::to_string(n)));
    must(image->close());
  }
  const Pairs pairs = measure_pairs(
      options.seconds, [&] { return open_ms(many); }, [&] { return open_ms(plain); });
  report.add({.name = "open an image with " + std::to_string(kSnapshots) + " snapshots",
              .value = pairs.value,
              .unit = "ms",
              .peer = "with none",
              .peer_value = pairs.peer,
              .ratio = pairs.ratio,
              .bound = kOpenBound,
              .note = std::to_string(pairs.count) + " pairs"});
  unlink(plain.c_str());
  unlink(many.c_str());
}

}  // namespace

void run_snapshot(const Options& options, Report& report) {
  const WorkDirectory directory(options.medium);
  const uint64_t filled = options.quick ? 256 * pcow::kMiB : 4 * pcow::kGiB;
  measure_creation(options, directory, 64 * pcow::kGiB, filled, report);
  measure_creation(options, directory, pcow::kTiB, 0, report);
  measure_opening(options, directory, report);
}

}  // namespace bench
