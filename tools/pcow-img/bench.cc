// SPDX-License-Identifier: BSD-3-Clause
//
// As qemu-img bench, for memory: a request is a copy between a buffer and the guest memory of an
// image, mapped the way a guest's is. What is written stays in DRAM until the commit at the end,
// which is timed by itself.
#include <tiering/region.h>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>
#include <vector>

#include "tools/common/arguments.h"
#include "tools/common/failure.h"
#include "tools/common/json_text.h"
#include "tools/pcow-img/commands.h"

namespace pcow_img {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchCommand {
  tools::Output output = tools::Output::kHuman;
  bool quiet = false;
  bool write = false;
  uint64_t count = 75000;
  uint64_t request_bytes = pcow::kPageSize;
  uint8_t pattern = 0xa5;  // not 0: pages of zeros are not stored
  std::string file;
};

struct Outcome {
  double seconds = 0;         // of the loads or stores
  double commit_seconds = 0;  // what makes the stores durable
  uint64_t written_pages = 0;
  uint64_t zero_pages = 0;
};

uint64_t parse_number(const std::string& option, const std::string& text, uint64_t max) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value > max) {
    throw tools::UsageError(option + " must be a number, at most " + std::to_string(max) +
                            ", not '" + text + "'");
  }
  return value;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What is said of a region says nothing of the file.
template <typename T>
T of_file(const BenchCommand& command, pcow::Result<T> result) {
  if (!result) throw tools::Failure("'" + command.file + "': " + result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

// What is about to be done, and may take a while.
void announce(const BenchCommand& command) {
  // In JSON, the document is all there is on stdout.
  if (command.quiet || command.output == tools::Output::kJson) return;
  std::printf("%s %llu requests, %llu bytes each\n", command.write ? "Storing" : "Loading",
              static_cast<unsigned long long>(command.count),
              static_cast<unsigned long long>(command.request_bytes));
  std::fflush(stdout);
}

// Requests follow each other through the guest memory and begin again at its start.
Outcome run_requests(const BenchCommand& command, tiering::Region& region) {
  std::vector<std::byte> buffer(command.request_bytes, static_cast<std::byte>(command.pattern));
  Outcome outcome;
  uint64_t offset = 0;
  const auto start = Clock::now();
  for (uint64_t n = 0; n < command.count; ++n) {
    std::byte* const guest = region.base() + offset;
    if (command.write) {
      std::memcpy(guest, buffer.data(), buffer.size());
    } else {
      std::memcpy(buffer.data(), guest, buffer.size());
    }
    // The compiler must not see that nobody looks at the buffer.
    asm volatile("" : : "r"(buffer.data()) : "memory");
    offset += command.request_bytes;
    if (offset > region.size() - command.request_bytes) offset = 0;
  }
  outcome.seconds = seconds_since(start);
  if (command.write) {
    const auto commit_start = Clock::now();
    const auto report = of_file(command, region.commit(false));
    outcome.commit_seconds = seconds_since(commit_start);
    outcome.written_pages = report.written_pages;
    outcome.zero_pages = report.zero_pages;
  }
  return outcome;
}

Outcome run(const BenchCommand& command) {
  pcow::OpenOptions options;
  options.access = pcow::Access::kReadWrite;
  const auto image = tools::value_or_fail(pcow::Image::open(command.file, options));
  if (command.request_bytes > image->virtual_size()) {
    throw tools::Failure("-s is larger than '" + command.file + "'");
  }
  const auto region = of_file(command, tiering::Region::map(*image, {}));
  announce(command);
  const Outcome outcome = run_requests(command, *region);
  of_file(command, region->reclaim());
  tools::value_or_fail(image->close());
  return outcome;
}

double request_ns(const BenchCommand& command, const Outcome& outcome) {
  return outcome.seconds * 1e9 / static_cast<double>(command.count);
}

double mib_per_second(const BenchCommand& command, const Outcome& outcome) {
  const auto bytes =
      static_cast<double>(command.count) * static_cast<double>(command.request_bytes);
  return bytes / static_cast<double>(pcow::kMiB) / outcome.seconds;
}

void print_json(const BenchCommand& command, const Outcome& outcome) {
  auto json = nlohmann::ordered_json::object();
  json["filename"] = command.file;
  json["operation"] = command.write ? "write" : "read";
  json["count"] = command.count;
  json["request-bytes"] = command.request_bytes;
  json["seconds"] = outcome.seconds;
  json["request-ns"] = request_ns(command, outcome);
  json["mib-per-second"] = mib_per_second(command, outcome);
  if (command.write) {
    json["commit-seconds"] = outcome.commit_seconds;
    json["written-pages"] = outcome.written_pages;
    json["zero-pages"] = outcome.zero_pages;
  }
  std::printf("%s\n", tools::json_text(json).c_str());
}

void print_human(const BenchCommand& command, const Outcome& outcome) {
  std::printf(
      "RESULT ok op=%s count=%llu request_bytes=%llu seconds=%.6f request_ns=%.1f "
      "mib_per_s=%.1f",
      command.write ? "write" : "read", static_cast<unsigned long long>(command.count),
      static_cast<unsigned long long>(command.request_bytes), outcome.seconds,
      request_ns(command, outcome), mib_per_second(command, outcome));
  if (command.write) {
    std::printf(" commit_seconds=%.6f written_pages=%llu zero_pages=%llu", outcome.commit_seconds,
                static_cast<unsigned long long>(outcome.written_pages),
                static_cast<unsigned long long>(outcome.zero_pages));
  }
  std::printf("\n");
}

bool parse(const std::vector<std::string>& args, BenchCommand& command) {
  std::string count_text;
  std::string size_text;
  std::string pattern_text;
  tools::Arguments arguments("pcow-img bench",
                             "Times loads from, or stores to, the guest memory of an image that is "
                             "not in use. With -w, its content is overwritten.");
  arguments.output(&command.output);
  arguments.flag("-q,--quiet", &command.quiet, "Print the result only");
  arguments.flag("-w", &command.write, "Store instead of load, and commit at the end");
  arguments.value("-c", &count_text, "Number of requests (default 75000)");
  arguments.value("-s", &size_text, "Bytes of a request (default 4096)");
  arguments.value("--pattern", &pattern_text, "Byte to store (default 165)");
  arguments.positional("FILE", &command.file, "Image to use", "expecting image file name");
  if (!arguments.parse(args)) return false;
  if (!count_text.empty()) command.count = parse_number("-c", count_text, UINT32_MAX);
  if (!size_text.empty()) command.request_bytes = parse_size_argument("-s", size_text);
  if (!pattern_text.empty()) {
    command.pattern = static_cast<uint8_t>(parse_number("--pattern", pattern_text, UINT8_MAX));
  }
  if (command.count == 0 || command.request_bytes == 0) {
    throw tools::UsageError("-c and -s must not be 0");
  }
  if (!pattern_text.empty() && !command.write) throw tools::UsageError("--pattern needs -w");
  return true;
}

}  // namespace

int run_bench(const std::vector<std::string>& args) {
  BenchCommand command;
  if (!parse(args, command)) return tools::kExitOk;
  const Outcome outcome = run(command);
  if (command.output == tools::Output::kJson) {
    print_json(command, outcome);
  } else {
    print_human(command, outcome);
  }
  return tools::kExitOk;
}

}  // namespace pcow_img
