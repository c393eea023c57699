// SPDX-License-Identifier: BSD-3-Clause
//
// The first write of pages into an image: with space that a thread made ahead of it, and with space
// that was only reserved before, against space that is reserved when it is needed. Pages are
// scattered over windows that own some already, so that each is a run of its own.
#include <fcntl.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"

namespace bench {
namespace {

using pcow::kPageSize;
using pcow::kPagesPerChunk;

constexpr uint64_t kSize = 32 * pcow::kGiB;
constexpr uint64_t kWindows = 16;  // that are filled at a time
constexpr uint64_t kStep = 16;     // every 16th page of a window in a run
constexpr uint64_t kReserveAhead = 64 * pcow::kMiB;
constexpr double kBound = 0.9;

enum class Space { kWhenNeeded, kReserved, kAhead };

double elapsed_seconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

class Writer {
 public:
  Writer(const std::string& path, Space space, bool log) : space_(space), log_(log) {
    must(pcow::Image::create(path, {.virtual_size = kSize}));
    image_ = must(pcow::Image::open(
        path, {.access = pcow::Access::kReadWrite,
               .reserve_ahead = space == Space::kAhead ? kReserveAhead : uint64_t{0}}));
  }

  // One run; `clock` before and after it. Nanoseconds a page.
  double run(double (*clock)()) {
    if (next_ == kStep) {
      next_ = 0;
      set_ = (set_ + 1) % (kSize / pcow::kChunkSize / kWindows);
    }
    if (next_ == 0) {
      write(next_++);
      if (space_ == Space::kReserved) reserve();
    }
    while (image_->info().ahead.busy) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const double start = clock();
    write(next_++);
    const double seconds = clock() - start;
    constexpr uint64_t kPages = kWindows * kPagesPerChunk / kStep;
    return seconds * 1e9 / static_cast<double>(kPages);
  }
  const pcow::Image& image() const { return *image_; }

 private:
  void write(uint64_t first) {
    std::vector<pcow::PageWrite> writes;
    for (uint64_t window = 0; window < kWindows; ++window) {
      for (uint64_t page = first; page < kPagesPerChunk; page += kStep) {
        const uint64_t chunk = set_ * kWindows + window;
        writes.push_back({pcow::PageIndex(chunk * kPagesPerChunk + page), data_.data()});
      }
    }
    if (log_) {
      must(image_->log_pages(writes));
    } else {
      must(image_->write_pages(writes));
    }
    must(image_->commit());
    if (log_) must(image_->checkpoint(UINT64_MAX));
  }
  // As a thread could do it without writing: the windows of this set.
  void reserve() {
    for (uint64_t window = 0; window < kWindows; ++window) {
      const pcow::ChunkIndex chunk(set_ * kWindows + window);
      const auto layout = must(image_->layout(pcow::gib_of(chunk)));
      const uint64_t place = layout.chunks.at(chunk.value % pcow::kChunksPerSegment).window.offset;
      if (fallocate(image_->fd(), FALLOC_FL_KEEP_SIZE, static_cast<off_t>(place),
                    pcow::kWindowSize) != 0) {
        fail_errno("cannot reserve space");
      }
    }
    if (fdatasync(image_->fd()) != 0) fail_errno("cannot flush the image");
  }

  const Space space_;
  const bool log_;
  std::unique_ptr<pcow::Image> image_;
  std::vector<std::byte> data_ = std::vector<std::byte>(kPageSize, std::byte{0x5a});
  uint64_t set_ = 0;
  uint64_t next_ = 0;  // the run within the set
};

struct Case {
  const char* name;
  Space space;
  bool log;
  double (*clock)();
  bool bounded;
};

void compare(const Options& options, const WorkDirectory& directory, const Case& one,
             Report& report) {
  const std::string path = directory.file("image");
  const std::string peer_path = directory.file("peer");
  const bool broken = options.broken == "no-thread" && one.space == Space::kAhead;
  Row row{.name = one.name, .unit = "ns/page", .peer = "reserved when it is needed"};
  {
    Writer value(path, broken ? Space::kWhenNeeded : one.space, one.log);
    Writer peer(peer_path, Space::kWhenNeeded, one.log);
    const Pairs pairs = measure_pairs(
        options.seconds, [&] { return value.run(one.clock); }, [&] { return peer.run(one.clock); });
    const pcow::AheadInfo ahead = value.image().info().ahead;
    row.value = pairs.value;
    row.peer_value = pairs.peer;
    row.ratio = pairs.ratio;
    row.note = std::to_string(pairs.count) + " pairs of " +
               std::to_string(kWindows * kPagesPerChunk / kStep) + " pages";
    const bool done = ahead.used_pages > 0 || broken;
    if (one.space == Space::kAhead) {
      row.note += done ? "; " + std::to_string(ahead.missed_pages) + " of " +
                             std::to_string(ahead.missed_pages + ahead.used_pages) +
                             " pages found no space"
                       : "; this medium has no thread that makes space";
    }
    if (one.bounded && done) row.bound = kBound;
  }
  report.add(std::move(row));
  unlink(path.c_str());
  unlink(peer_path.c_str());
}

}  // namespace

void run_first_write(const Options& options, Report& report) {
  const WorkDirectory directory(options.medium);
  const Case cases[] = {
      {"first write, space ahead", Space::kAhead, false, thread_seconds, true},
      {"first write, space ahead, elapsed", Space::kAhead, false, elapsed_seconds, false},
      {"log, commit, checkpoint, space ahead", Space::kAhead, true, thread_seconds, false},
      {"log, commit, checkpoint, space ahead, elapsed", Space::kAhead, true, elapsed_seconds,
       false},
      {"first write, windows only reserved", Space::kReserved, false, thread_seconds, false},
      {"first write, windows only reserved, elapsed", Space::kReserved, false, elapsed_seconds,
       false},
  };
  for (const Case& one : cases) compare(options, directory, one, report);
}

}  // namespace bench
