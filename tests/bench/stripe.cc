// SPDX-License-Identifier: BSD-3-Clause
//
// Stripe sets: whether several files are written faster than one, and the kernel mappings that they
// cost. All files are in one directory here: on one device the first shows what striping costs, not
// what it gains.
#include <tiering/region.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"

namespace bench {
namespace {

class StripedImage {
 public:
  // In one file, or in several.
  StripedImage(const WorkDirectory& directory, uint64_t files, uint64_t size) {
    pcow::CreateOptions options;
    options.virtual_size = size;
    paths_.push_back(directory.file("image"));
    for (uint64_t i = 1; i < files; ++i) {
      options.stripe.push_back("image." + std::to_string(i));
      paths_.push_back(directory.file(options.stripe.back()));
    }
    must(pcow::Image::create(paths_.front(), options));
    image_ = must(pcow::Image::open(paths_.front(), {.access = pcow::Access::kReadWrite}));
  }
  ~StripedImage() {
    for (const std::string& path : paths_) unlink(path.c_str());
  }
  StripedImage(const StripedImage&) = delete;
  StripedImage& operator=(const StripedImage&) = delete;

  pcow::Image& image() { return *image_; }

 private:
  std::vector<std::string> paths_;
  std::unique_ptr<pcow::Image> image_;
};

double write_ms(const WorkDirectory& directory, uint64_t files, uint64_t bytes) {
  StripedImage striped(directory, files, bytes);
  const auto start = Clock::now();
  fill_image(striped.image(), 0, bytes);
  must(striped.image().commit());
  return seconds_since(start) * 1e3;
}

void measure_writing(const Options& options, const WorkDirectory& directory, uint64_t files,
                     Report& report) {
  const uint64_t bytes = (options.quick ? 128 : 512) * pcow::kMiB;
  const Pairs pairs = measure_pairs(
      options.seconds, [&] { return write_ms(directory, files, bytes); },
      [&] { return write_ms(directory, 1, bytes); });
  report.add(
      {.name = "write " + pcow::format_size(bytes) + " to " + std::to_string(files) + " files",
       .value = pairs.value,
       .unit = "ms",
       .peer = "one file",
       .peer_value = pairs.peer,
       .ratio = pairs.ratio,
       .note = "in one directory"});
}

// Of memory all of which the image holds: a mapping for each unit, and no more.
void measure_mappings(const WorkDirectory& directory, uint64_t files, Report& report) {
  constexpr uint64_t kSize = 4 * pcow::kGiB;
  StripedImage striped(directory, files, kSize);
  const std::vector<std::byte> page(pcow::kPageSize, std::byte{1});
  std::vector<pcow::PageWrite> writes;
  for (uint64_t at = 0; at < kSize; at += pcow::kChunkSize) {
    writes.push_back({pcow::PageIndex(at / pcow::kPageSize), page.data()});
  }
  must(striped.image().write_pages(writes));
  must(striped.image().commit());
  const auto region = must(tiering::Region::map(striped.image(), {}));
  const uint64_t unit = files == 1 ? kSize : striped.image().info().stripe_unit;
  const uint64_t mappings_max = kSize / unit;
  report.add({.name = "mappings of " + pcow::format_size(kSize) + " in " + std::to_string(files) +
                      (files == 1 ? " file" : " files"),
              .value = static_cast<double>(must(region->status()).mappings),
              .unit = "",
              .bound = static_cast<double>(mappings_max),
              .note = files == 1 ? "" : "unit " + pcow::format_size(unit)});
}

}  // namespace

void run_stripe(const Options& options, Report& report) {
  const WorkDirectory directory(options.medium);
  for (const uint64_t files : {2u, 4u}) measure_writing(options, directory, files, report);
  for (const uint64_t files : {1u, 2u, 4u}) measure_mappings(directory, files, report);
}

}  // namespace bench
