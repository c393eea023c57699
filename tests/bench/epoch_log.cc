// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs through the log: logging and committing pages against copying them to the same medium, and
// the recovery of a log. Processor time of this thread: waiting for a disk does not count.
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"

namespace bench {
namespace {

using pcow::kMiB;
using pcow::kPageSize;

constexpr uint64_t kLogSize = 256 * kMiB;
constexpr uint64_t kPagesPerCall = 1024;
// Times a copy, and seconds a GiB.
constexpr double kWholeBound = 1 / 0.6;
constexpr double kRecoveryBound = 1.0;

// The pages of an epoch in memory, and calls of log_pages() that take them.
class Pages {
 public:
  explicit Pages(uint64_t count) : pages_(count) {
    for (uint64_t page = 0; page < count; ++page) {
      writes_.push_back({pcow::PageIndex(page), pages_[page].bytes.data()});
    }
  }
  // New content of the first lines of each page.
  void change(uint64_t lines) {
    for (Page& page : pages_) {
      for (size_t at = 0; at < lines * pcow::kLineSize; at += sizeof(uint64_t)) {
        const unsigned long value = random_.next();
        std::memcpy(page.bytes.data() + at, &value, sizeof(value));
      }
    }
  }
  void log(pcow::Image& image, uint64_t pages_per_call) const {
    for (size_t first = 0; first < writes_.size(); first += pages_per_call) {
      const auto count = std::min<size_t>(pages_per_call, writes_.size() - first);
      must(image.log_pages(std::span(writes_).subspan(first, count)));
    }
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(pages_)); }
  size_t count() const { return writes_.size(); }

 private:
  // Of memory, as those of a guest are.
  struct alignas(kPageSize) Page {
    std::array<std::byte, kPageSize> bytes;
  };
  std::vector<Page> pages_;
  std::vector<pcow::PageWrite> writes_;
  Random random_{1};
};

double timed(const std::function<void()>& body) {
  const double start = thread_seconds();
  body();
  return thread_seconds() - start;
}

struct Case {
  const char* name;
  uint64_t lines;  // that change in a page
  std::optional<double> bound;
};

void log_epochs(const Options& options, const WorkDirectory& directory, Report& report) {
  const uint64_t count = options.quick ? 4096 : 8192;
  const std::string path = directory.file("log");
  must(pcow::Image::create(path, {.virtual_size = pcow::kGiB, .log_size = kLogSize}));
  const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
  const RawFile file(directory.file("raw"), count * kPageSize);
  file.fill(0, count * kPageSize);
  const auto raw = map_raw(file.path(), count * kPageSize, true);
  Pages pages(count);
  // Of pages that were changed just now, as those are that are logged.
  const auto copy = [&] {
    pages.change(pcow::kLinesPerPage);
    return timed([&] { std::memcpy(raw.base(), pages.bytes().data(), pages.bytes().size()); }) *
           1e9 / static_cast<double>(count);
  };
  copy();
  const bool broken = options.broken == "call-each";
  double checkpoint_ns = 0;
  const auto epoch = [&](uint64_t lines) {
    pages.change(lines);
    const double seconds = timed([&] {
      pages.log(*image, broken ? 1 : kPagesPerCall);
      must(image->commit());
    });
    checkpoint_ns =
        timed([&] { must(image->checkpoint(UINT64_MAX)); }) * 1e9 / static_cast<double>(count);
    return seconds * 1e9 / static_cast<double>(count);
  };
  epoch(pcow::kLinesPerPage);
  constexpr Case kCases[] = {{"log and commit, whole pages", pcow::kLinesPerPage, kWholeBound},
                             {"log and commit, 4 of 64 lines", 4, std::nullopt}};
  for (const Case& one : kCases) {
    std::vector<double> checkpoints;
    const auto logged = [&] {
      const double ns = epoch(one.lines);
      checkpoints.push_back(checkpoint_ns);
      return ns;
    };
    const Pairs pairs = measure_pairs(options.seconds, logged, copy);
    report.add({.name = one.name,
                .value = pairs.value,
                .unit = "ns/page",
                .peer = "memcpy to a mapping of the medium",
                .peer_value = pairs.peer,
                .ratio = pairs.ratio,
                .bound = one.bound,
                .note = std::to_string(pairs.count) + " epochs of " + std::to_string(count) +
                        " pages; a checkpoint takes " + std::to_string(median(checkpoints)) +
                        " ns a page"});
  }
}

void recover(const Options& options, const WorkDirectory& directory, Report& report) {
  const std::string path = directory.file("recovery");
  // Epochs of other pages, and of the same again.
  Pages pages(options.quick ? 4096 : 16384);
  constexpr int kEpochs = 3;
  std::vector<double> seconds;
  double log_mib = 0;
  const auto start = Clock::now();
  while (seconds.size() < 3 || (seconds_since(start) < options.seconds && seconds.size() < 51)) {
    must(pcow::Image::create(
        path, {.virtual_size = pcow::kGiB, .log_size = kLogSize, .overwrite = true}));
    {
      const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
      for (int epoch = 0; epoch < kEpochs; ++epoch) {
        pages.change(pcow::kLinesPerPage);
        pages.log(*image, kPagesPerCall);
        must(image->commit());
      }
    }
    std::unique_ptr<pcow::Image> image;
    const double taken =
        timed([&] { image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite})); });
    const auto bytes = static_cast<double>(image->info().recovery.log_bytes);
    log_mib = bytes / static_cast<double>(kMiB);
    seconds.push_back(taken * static_cast<double>(pcow::kGiB) / bytes);
  }
  const double each = median(seconds);
  report.add({.name = "recovery of an epoch log",
              .value = each,
              .unit = "s/GiB",
              .bound = kRecoveryBound,
              .note = std::to_string(1 / each) + " GiB/s, " + std::to_string(seconds.size()) +
                      " logs of " + std::to_string(log_mib) + " MiB, " + std::to_string(kEpochs) +
                      " epochs of " + std::to_string(pages.count()) + " pages"});
}

}  // namespace

void run_epoch_log(const Options& options, Report& report) {
  const WorkDirectory directory(options.medium);
  log_epochs(options, directory, report);
  if (options.broken.empty()) recover(options, directory, report);
}

}  // namespace bench
