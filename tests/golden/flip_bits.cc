// SPDX-License-Identifier: BSD-3-Clause
//
// flip_bits: flips one bit in every byte of the metadata of a small image, one at a time, and asks
// of each damaged image that
//   1. the checker reports it: corruptions, or an error that says what the file is not;
//   2. opening it fails, or shows the right size and, page by page, the right data or an error;
//   3. nothing of this writes to the file;
//   4. a writable open (of a sample of the flips) fails without a write, or repairs: then the data
//      is right and the checker content.
// Bytes that the format reserves are sampled, and must be reported as corruption or as a leak.
//
//   flip_bits [--seed N] [--quick] [--list-breaks] [--break NAME]
//
// --quick takes every 16th byte, from a start that the seed chooses. The break shows that the test
// can fail.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <pcow/image.h>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tests/golden/flip_targets.h"
#include "tests/support/temp_dir.h"

namespace {

using golden::Target;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kVirtualSize = pcow::kGiB;  // one chunk table
constexpr std::array<uint64_t, 5> kPages = {0, 1, 511, 512, pcow::kPagesPerSegment - 1};
// Pages that are not in the image, beside and far from some that are: they must stay zero.
constexpr std::array<uint64_t, 3> kHoles = {2, 4096, pcow::kPagesPerSegment - 2};
constexpr uint64_t kMapped = 8 * pcow::kMiB;  // enough of the map for every kind of extent
constexpr uint64_t kReservedStep = 509;
constexpr uint64_t kQuickStep = 16;
constexpr uint64_t kWritableStep = 64;
constexpr timespec kLongAgo = {1'000'000'000, 0};

struct Options {
  uint64_t seed = 1;
  bool quick = false;
  bool flip_data = false;
};

[[noreturn]] void die(const std::string& what) {
  std::printf("%s\nRESULT failed\n", what.c_str());
  std::exit(1);
}

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) die(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

Bytes page_content(uint64_t page) {
  return Bytes(pcow::kPageSize, static_cast<std::byte>(page % 251 + 1));
}

pcow::Result<std::unique_ptr<pcow::Image>> open_image(const std::string& path,
                                                      pcow::Access access) {
  pcow::OpenOptions options;
  options.access = access;
  options.replay_in_memory = access == pcow::Access::kReadOnly;
  return pcow::Image::open(path, options);
}

void make_image(const std::string& path) {
  pcow::CreateOptions options;
  options.virtual_size = kVirtualSize;
  must(pcow::Image::create(path, options));
  auto image = must(open_image(path, pcow::Access::kReadWrite));
  for (const uint64_t page : kPages) {
    const Bytes content = page_content(page);
    const pcow::PageWrite write{pcow::PageIndex(page), content.data()};
    must(image->write_pages(std::span(&write, 1)));
  }
  must(image->commit());
  must(image->close());
}

// The damaged file, and the way back.
class Patient {
 public:
  explicit Patient(const std::string& path) : fd_(::open(path.c_str(), O_RDWR | O_CLOEXEC)) {
    if (fd_ < 0) die("cannot open " + path);
  }
  ~Patient() { ::close(fd_); }
  Patient(const Patient&) = delete;
  Patient& operator=(const Patient&) = delete;

  int fd() const { return fd_; }

  // Remembers these parts, for restore().
  void keep(const std::vector<Target>& targets) {
    for (const Target& target : targets) kept_[target.offset] = read(target.offset, target.length);
    size_ = status().st_size;
  }

  void flip(uint64_t offset) {
    Bytes byte = read(offset, 1);
    byte[0] ^= static_cast<std::byte>(1u << (offset % 8));
    write(offset, byte);
    const std::array<timespec, 2> times = {kLongAgo, kLongAgo};
    if (futimens(fd_, times.data()) != 0) die("cannot set the times of the image");
  }

  // Since flip(). Any write or truncation would have moved the time of modification.
  bool untouched() const {
    const struct stat now = status();
    return now.st_mtim.tv_sec == kLongAgo.tv_sec && now.st_mtim.tv_nsec == kLongAgo.tv_nsec &&
           now.st_size == size_;
  }

  void restore() const {
    for (const auto& [offset, bytes] : kept_) write(offset, bytes);
  }

  // The log of an image that was closed cleanly holds nothing: empties it, so that nothing a
  // writable open appended meets the superblock of an earlier time.
  void empty_log() const {
    const Target log = golden::log_target(fd_);
    if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(log.offset),
                  static_cast<off_t>(log.length)) != 0) {
      die("cannot punch a hole into the image");
    }
  }

 private:
  struct stat status() const {
    struct stat now = {};
    if (fstat(fd_, &now) != 0) die("cannot stat the image");
    return now;
  }

  Bytes read(uint64_t offset, uint64_t length) const {
    Bytes bytes(length);
    if (pread(fd_, bytes.data(), length, static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(length)) {
      die("cannot read the image");
    }
    return bytes;
  }

  void write(uint64_t offset, const Bytes& bytes) const {
    if (pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(bytes.size())) {
      die("cannot write the image");
    }
  }

  int fd_;
  off_t size_ = 0;
  std::map<uint64_t, Bytes> kept_;
};

// What is wrong with the data that an opened image shows; nothing when it is right, or an error.
std::optional<std::string> wrong_data(const pcow::Image& image) {
  if (image.virtual_size() != kVirtualSize) return "opened with a wrong virtual size";
  Bytes seen(pcow::kPageSize);
  const auto differs = [&](uint64_t page, const Bytes& expected) {
    return image.read(page * pcow::kPageSize, seen).has_value() && seen != expected;
  };
  for (const uint64_t page : kPages) {
    if (differs(page, page_content(page))) return "wrong data in page " + std::to_string(page);
  }
  for (const uint64_t page : kHoles) {
    if (differs(page, Bytes(pcow::kPageSize))) return "data in hole " + std::to_string(page);
  }
  return std::nullopt;
}

std::optional<std::string> look_at(const std::string& path) {
  auto image = open_image(path, pcow::Access::kReadOnly);
  if (!image) return std::nullopt;
  if ((*image)->info().virtual_size != kVirtualSize) return "info shows a wrong virtual size";
  auto mapped = (*image)->map(0, kMapped, [](const pcow::MapExtent&) {});
  return mapped || mapped.error().code == pcow::Code::kCorrupt
             ? wrong_data(**image)
             : "map fails with '" + mapped.error().message + "'";
}

std::optional<std::string> unreported(const std::string& path, bool leak_is_enough) {
  auto report = pcow::check_image(path, false, {});
  if (!report) {
    const pcow::Code code = report.error().code;
    const bool names_it = code == pcow::Code::kForeign || code == pcow::Code::kUnsupported ||
                          code == pcow::Code::kCorrupt;
    return names_it ? std::nullopt
                    : std::optional("check fails with '" + report.error().message + "'");
  }
  if (report->corruptions > 0 || (leak_is_enough && report->leaked_bytes > 0)) return std::nullopt;
  return "undetected by check";
}

std::optional<std::string> open_for_writing(const std::string& path, const Patient& patient) {
  auto image = open_image(path, pcow::Access::kReadWrite);
  if (!image) {
    if (!patient.untouched()) return "a writable open that failed has written";
    return std::nullopt;
  }
  if (auto wrong = wrong_data(**image)) return "after a writable open: " + *wrong;
  return std::nullopt;
}

class Run {
 public:
  Run(const Options& options, const std::string& path) : options_(options), path_(path) {}

  // Flips every `step`-th byte of the target.
  void target(Patient& patient, const Target& target, uint64_t step, bool reserved) {
    const uint64_t failed_before = failed_;
    const uint64_t start = step > 1 ? options_.seed % step : 0;
    for (uint64_t at = start; at < target.length; at += step) {
      one(patient, target, at, reserved);
    }
    std::printf("%-34s at %10llu: %6llu bytes, %llu failures\n", target.name.c_str(),
                static_cast<unsigned long long>(target.offset),
                static_cast<unsigned long long>(target.length),
                static_cast<unsigned long long>(failed_ - failed_before));
    std::fflush(stdout);
  }

  uint64_t flips() const { return flips_; }
  uint64_t failed() const { return failed_; }

 private:
  void one(Patient& patient, const Target& target, uint64_t at, bool reserved) {
    ++flips_;
    patient.flip(target.offset + at);
    auto wrong = unreported(path_, reserved);
    if (!wrong) wrong = look_at(path_);
    if (!wrong && !patient.untouched()) wrong = "a read-only command has written";
    const bool writable = !wrong && at % kWritableStep == 0;
    if (writable) wrong = open_for_writing(path_, patient);
    if (writable) {
      patient.restore();
      patient.empty_log();
    } else {
      patient.flip(target.offset + at);
    }
    if (!wrong) return;
    constexpr uint64_t kShownMax = 20;
    if (failed_++ < kShownMax) {
      std::printf("%s + %llu (bit %llu): %s\n", target.name.c_str(),
                  static_cast<unsigned long long>(at),
                  static_cast<unsigned long long>((target.offset + at) % 8), wrong->c_str());
    }
  }

  const Options options_;
  const std::string path_;
  uint64_t flips_ = 0;
  uint64_t failed_ = 0;
};

// Guest data, which has no checksum: nothing can notice a flip there, so this must fail.
Target unprotected_data(const std::string& path) {
  auto image = must(open_image(path, pcow::Access::kReadOnly));
  Target data{"guest data", 0, 16};
  must(image->map(0, pcow::kPageSize,
                  [&data](const pcow::MapExtent& extent) { data.offset = *extent.file_offset; }));
  return data;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int n = 1; n < argc; ++n) {
    const std::string word = argv[n];
    if (word == "--quick") {
      options.quick = true;
    } else if (word == "--list-breaks") {
      std::printf("flip-data  flips guest data, which has no checksum\n");
      std::exit(0);
    } else if (word == "--break" && n + 1 < argc && std::string(argv[n + 1]) == "flip-data") {
      options.flip_data = true;
      ++n;
    } else if (word == "--seed" && n + 1 < argc) {
      options.seed = std::strtoull(argv[++n], nullptr, 10);
    } else {
      std::fprintf(stderr, "flip_bits [--seed N] [--quick] [--list-breaks] [--break NAME]\n");
      std::exit(2);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  const auto started = std::chrono::steady_clock::now();
  const test::TempDir dir;
  const std::string path = dir.file("patient.pcow");
  make_image(path);
  if (auto healthy = must(pcow::check_image(path, false, {})); healthy.corruptions > 0) {
    die("the image is damaged before any flip: " + healthy.messages.at(0));
  }
  Patient patient(path);
  std::vector<Target> metadata = golden::metadata_targets(patient.fd());
  const std::vector<Target> reserved = golden::reserved_targets(patient.fd());
  patient.keep(metadata);
  patient.keep(reserved);
  if (options.flip_data) metadata = {unprotected_data(path)};

  Run run(options, path);
  for (const Target& target : metadata) {
    run.target(patient, target, options.quick ? kQuickStep : 1, false);
  }
  for (const Target& target : reserved) run.target(patient, target, kReservedStep, true);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  std::printf("RESULT %s flips=%llu failures=%llu seed=%llu seconds=%.1f\n",
              run.failed() == 0 ? "ok" : "failed", static_cast<unsigned long long>(run.flips()),
              static_cast<unsigned long long>(run.failed()),
              static_cast<unsigned long long>(options.seed), took.count());
  return run.failed() == 0 ? 0 : 1;
}
