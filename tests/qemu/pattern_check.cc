// SPDX-License-Identifier: BSD-3-Clause
//
// Looks for the pages that memfill wrote in a guest (guest-numa/pattern.h) in an image, wherever
// the guest has put them: every index has to be there exactly once and intact. The image is only
// read; one that was not closed cleanly is judged by what its next opening would recover.
#include <pcow/image.h>
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pattern.h"

namespace {

constexpr const char* kUsage =
    "usage: pattern_check --seed S --pages N IMAGE\n"
    "The last line is RESULT ok|failed name=value ...; exit status 0, 1 (failed) or 2 (usage).\n";

struct Options {
  uint64_t seed = 0;
  uint64_t pages = 0;
  std::string image;
};

struct Counts {
  std::vector<uint8_t> seen;  // by index, saturating
  uint64_t damaged = 0;       // begins like a page of this seed, but is not intact
  uint64_t out_of_range = 0;  // an index that this run does not have
  uint64_t scanned = 0;
};

void count_page(const std::byte* page, const Options& options, Counts& counts) {
  uint64_t seed = 0;
  uint64_t index = 0;
  const pattern_state state = pattern_check(page, &seed, &index);
  counts.scanned++;
  if (state == PATTERN_NONE || seed != options.seed) return;
  if (state == PATTERN_DAMAGED) {
    counts.damaged++;
  } else if (index >= options.pages) {
    counts.out_of_range++;
  } else if (counts.seen[index] < 2) {
    counts.seen[index]++;
  }
}

pcow::Result<void> scan_image(const pcow::Image& image, const Options& options, Counts& counts) {
  std::vector<std::byte> buffer(pcow::kChunkSize);
  pcow::Result<void> failure;
  auto mapped = image.map(0, image.virtual_size(), [&](const pcow::MapExtent& extent) {
    if (!extent.data || !failure) return;
    for (uint64_t done = 0; done < extent.length; done += buffer.size()) {
      const uint64_t length = std::min<uint64_t>(buffer.size(), extent.length - done);
      failure = image.read(extent.start + done, std::span(buffer).first(length));
      if (!failure) return;
      for (uint64_t at = 0; at < length; at += PATTERN_PAGE_BYTES) {
        count_page(buffer.data() + at, options, counts);
      }
    }
  });
  return mapped ? failure : mapped;
}

int report(const Options& options, const Counts& counts) {
  uint64_t once = 0;
  uint64_t repeated = 0;
  for (const uint8_t times : counts.seen) {
    once += times == 1;
    repeated += times > 1;
  }
  const uint64_t missing = options.pages - once - repeated;
  const bool ok = once == options.pages && counts.damaged == 0 && counts.out_of_range == 0;
  std::printf("RESULT %s pages=%" PRIu64 " intact=%" PRIu64 " missing=%" PRIu64 " repeated=%" PRIu64
              " damaged=%" PRIu64 " out_of_range=%" PRIu64 " scanned=%" PRIu64 " seed=%" PRIu64
              "\n",
              ok ? "ok" : "failed", options.pages, once, missing, repeated, counts.damaged,
              counts.out_of_range, counts.scanned, options.seed);
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

bool parse_number(const char* text, uint64_t* value) {
  char* end = nullptr;
  *value = std::strtoull(text, &end, 0);
  return end != text && *end == '\0';
}

bool parse_options(int argc, char** argv, Options* options) {
  bool has_seed = false;
  bool has_pages = false;
  for (int i = 1; i < argc; i++) {
    const std::string_view argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) {
      has_seed = parse_number(argv[++i], &options->seed);
    } else if (argument == "--pages" && i + 1 < argc) {
      has_pages = parse_number(argv[++i], &options->pages);
    } else if (options->image.empty() && !argument.starts_with("-")) {
      options->image = argument;
    } else {
      return false;
    }
  }
  return has_seed && has_pages && !options->image.empty();
}

int fail(const pcow::Error& error) {
  std::printf("RESULT failed error=\"%s\"\n", error.message.c_str());
  return EXIT_FAILURE;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse_options(argc, argv, &options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  pcow::OpenOptions how;
  how.replay_in_memory = true;
  auto image = pcow::Image::open(options.image, how);
  if (!image) return fail(image.error());

  Counts counts;
  counts.seen.resize(options.pages);
  if (auto scanned = scan_image(**image, options, counts); !scanned) return fail(scanned.error());
  return report(options, counts);
}
