// SPDX-License-Identifier: BSD-3-Clause
//
// Looks for the pages that memfill wrote in a guest (guest-numa/pattern.h) in an image, wherever
// the guest has put them: every index has to be there exactly once and intact. The image is only
// read; one that was not closed cleanly is judged by what its next opening would recover.
//
// With --independent no code of the engine reads the image, but the checker's (pcow/content.h): it
// must have no snapshots.
//
// With --last-seed the guest had filled the same pages again and again, with one seed after the
// other, when it was cut off: a page may then be of any fill between the two seeds, or a mixture,
// word by word, of several. With --instant the image has to show one moment of these fills: they go
// from word to word and from page to page, so up to some word there is one seed, and from there on
// the one before.
//
// With --snapshot it is what a snapshot keeps that is looked at.
//
// With --begun-seed the guest had begun fills up to that seed: nothing of those after --last-seed
// may be in the image, as nobody had asked for that.
#include <pcow/content.h>
#include <pcow/image.h>
#include <algorithm>
#include <array>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pattern.h"

namespace {

constexpr const char* kUsage =
    "usage: pattern_check --seed S [--last-seed T [--instant]] --pages N\n"
    "                     [--begun-seed B] [--independent | --snapshot NAME] IMAGE\n"
    "The last line is RESULT ok|failed name=value ...; exit status 0, 1 (failed) or 2 (usage).\n";

struct Options {
  uint64_t seed = 0;
  uint64_t last_seed = 0;
  uint64_t begun_seed = 0;
  uint64_t pages = 0;
  bool instant = false;
  bool independent = false;
  std::string snapshot;
  std::string image;
};

struct Counts {
  std::vector<uint8_t> seen;  // by index, saturating
  uint64_t damaged = 0;       // begins like a page of this seed, but is not intact
  uint64_t out_of_range = 0;  // an index that this run does not have
  uint64_t too_early = 0;     // of a fill that must not be there
  uint64_t scanned = 0;
  // --instant, by index: the seed that a page begins with, and how many words have it.
  std::vector<uint64_t> seeds;
  std::vector<size_t> words;
};

bool is_expected(uint64_t word, uint64_t index, size_t place, const Options& options) {
  for (uint64_t seed = options.seed;; ++seed) {
    if (word == pattern_expected(seed, index, place)) return true;
    if (seed == options.last_seed) return false;
  }
}

void count_page(const std::byte* page, const Options& options, Counts& counts) {
  counts.scanned++;
  std::array<uint64_t, PATTERN_PAGE_WORDS> words;
  std::memcpy(words.data(), page, sizeof words);
  const uint64_t seed = words[1];
  const uint64_t index = words[2];
  if (words[0] != PATTERN_MAGIC || seed < options.seed) return;
  if (seed > options.last_seed) {
    if (seed <= options.begun_seed) counts.too_early++;
    return;
  }
  for (size_t i = PATTERN_HEADER_WORDS; i < words.size(); ++i) {
    if (!is_expected(words.at(i), index, i, options)) {
      counts.damaged++;
      return;
    }
  }
  if (index >= options.pages) {
    counts.out_of_range++;
    return;
  }
  if (counts.seen[index] < 2) counts.seen[index]++;
  counts.seeds[index] = seed;
  size_t& count = counts.words[index];
  while (count < words.size() && words.at(count) == pattern_expected(seed, index, count)) ++count;
  for (size_t i = count; i < words.size() && options.instant; ++i) {
    if (words.at(i) == pattern_expected(seed - 1, index, i)) continue;
    counts.damaged++;
    return;
  }
}

// Whether the pages are those of one moment.
bool is_instant(const Counts& counts) {
  bool behind = false;  // the place where the fill was
  for (size_t i = 0; i < counts.seeds.size(); ++i) {
    const uint64_t now = counts.seeds.front();
    const bool whole = counts.words[i] == PATTERN_PAGE_WORDS;
    if (counts.seeds[i] != (behind ? now - 1 : now) && (behind || counts.seeds[i] != now - 1)) {
      return false;
    }
    if (behind && !whole) return false;
    if (counts.seeds[i] == now - 1 && !whole) return false;
    behind = behind || !whole || counts.seeds[i] != now;
  }
  return true;
}

// Both scans return the image's last committed epoch.
pcow::Result<pcow::Epoch> scan_by_checker(const Options& options, Counts& counts) {
  PCOW_TRY_ASSIGN(const pcow::CheckReport report,
                  pcow::visit_pages(options.image, [&](pcow::PageIndex, auto content) {
                    count_page(content.data(), options, counts);
                  }));
  if (report.corruptions == 0) return report.committed_epoch;
  return pcow::make_error(pcow::Code::kCorrupt, report.messages.front());
}

pcow::Result<pcow::Epoch> scan_by_engine(const Options& options, Counts& counts) {
  pcow::OpenOptions how;
  how.replay_in_memory = true;
  if (!options.snapshot.empty()) how.snapshot = options.snapshot;
  PCOW_TRY_ASSIGN(const auto image, pcow::Image::open(options.image, how));
  std::vector<std::byte> buffer(pcow::kChunkSize);
  pcow::Result<void> failure;
  PCOW_TRY(image->map(0, image->virtual_size(), [&](const pcow::MapExtent& extent) {
    if (!extent.data || !failure) return;
    for (uint64_t done = 0; done < extent.length; done += buffer.size()) {
      const uint64_t length = std::min<uint64_t>(buffer.size(), extent.length - done);
      failure = image->read(extent.start + done, std::span(buffer).first(length));
      if (!failure) return;
      for (uint64_t at = 0; at < length; at += PATTERN_PAGE_BYTES) {
        count_page(buffer.data() + at, options, counts);
      }
    }
  }));
  PCOW_TRY(failure);
  return image->info().committed_epoch;
}

int report(const Options& options, const Counts& counts, pcow::Epoch epoch) {
  uint64_t once = 0;
  uint64_t repeated = 0;
  for (const uint8_t times : counts.seen) {
    once += times == 1;
    repeated += times > 1;
  }
  const uint64_t missing = options.pages - once - repeated;
  const bool instant = !options.instant || is_instant(counts);
  const bool ok = once == options.pages && counts.damaged == 0 && counts.out_of_range == 0 &&
                  counts.too_early == 0 && instant;
  std::printf("RESULT %s pages=%" PRIu64 " intact=%" PRIu64 " missing=%" PRIu64 " repeated=%" PRIu64
              " damaged=%" PRIu64 " out_of_range=%" PRIu64 " too_early=%" PRIu64 " scanned=%" PRIu64
              " seed=%" PRIu64 " epoch=%" PRIu64 " newest_seed=%" PRIu64 "%s\n",
              ok ? "ok" : "failed", options.pages, once, missing, repeated, counts.damaged,
              counts.out_of_range, counts.too_early, counts.scanned, options.seed, epoch.value,
              counts.seeds.empty() ? 0 : counts.seeds.front(),
              instant ? "" : " pages_of_different_moments");
  return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

bool parse_number(const char* text, uint64_t* value) {
  char* end = nullptr;
  *value = std::strtoull(text, &end, 0);
  return end != text && *end == '\0';
}

bool parse_options(int argc, char** argv, Options* options) {
  bool has_seed = false;
  bool has_last_seed = false;
  bool has_pages = false;
  for (int i = 1; i < argc; i++) {
    const std::string_view argument = argv[i];
    if (argument == "--seed" && i + 1 < argc) {
      has_seed = parse_number(argv[++i], &options->seed);
    } else if (argument == "--last-seed" && i + 1 < argc) {
      has_last_seed = parse_number(argv[++i], &options->last_seed);
    } else if (argument == "--begun-seed" && i + 1 < argc) {
      if (!parse_number(argv[++i], &options->begun_seed)) return false;
    } else if (argument == "--pages" && i + 1 < argc) {
      has_pages = parse_number(argv[++i], &options->pages);
    } else if (argument == "--snapshot" && i + 1 < argc) {
      options->snapshot = argv[++i];
    } else if (argument == "--independent") {
      options->independent = true;
    } else if (argument == "--instant") {
      options->instant = true;
    } else if (options->image.empty() && !argument.starts_with("-")) {
      options->image = argument;
    } else {
      return false;
    }
  }
  if (!has_last_seed) options->last_seed = options->seed;
  if (options->independent && !options->snapshot.empty()) return false;
  return has_seed && has_pages && options->last_seed >= options->seed && !options->image.empty();
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
  Counts counts;
  counts.seen.resize(options.pages);
  counts.seeds.resize(options.pages);
  counts.words.resize(options.pages);
  const auto epoch =
      options.independent ? scan_by_checker(options, counts) : scan_by_engine(options, counts);
  return epoch ? report(options, counts, *epoch) : fail(epoch.error());
}
