// SPDX-License-Identifier: BSD-3-Clause
//
// The first store to a page. Of a hole: a plain kernel fault, against anonymous memory and against
// what a user-space fault handler costs (userfaultfd MISSING, answered with UFFDIO_COPY). Of the
// image or its base: against a private mapping of a raw file, and against qcow2.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <tiering/region.h>
#include <unistd.h>

#include <pcow/units.h>
#include <array>
#include <optional>
#include <string>
#include <thread>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"
#include "tests/bench/qcow2.h"

namespace bench {
namespace {

using pcow::kPageSize;

constexpr uint64_t kPagesPerRun = 8192;
constexpr uint64_t kUserFaultsPerRun = 1024;
constexpr double kAnonymousBound = 1.3;
constexpr double kUserFaultBound = 1.0 / 15;
constexpr double kBaseBound = 1.3;
constexpr double kQcow2Bound = 1.0 / 50;
constexpr uint64_t kClustersPerRun = 4096;
constexpr uint64_t kThinSize = 64 * pcow::kGiB;
constexpr uint64_t kCachedSize = 512 * pcow::kMiB;
constexpr int kUserModeOnly = 1;  // UFFD_USER_MODE_ONLY

// The toucher and the fault handler have processors of their own, as vCPUs and I/O threads of a
// hypervisor should.
void pin_thread(size_t cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  sched_setaffinity(0, sizeof set, &set);  // on a machine with one processor: as it is
}

// Touches fresh pages of a range, run by run, and gives each run's memory back; after the last
// page it starts again. The very last page is left out (see UserFaults).
class FreshPages {
 public:
  FreshPages(std::byte* base, uint64_t size)
      : base_(base), at_(base), end_(base + size - kPageSize) {}

  // Returns the time per page.
  double touch(uint64_t pages) {
    if (static_cast<uint64_t>(end_ - at_) < pages * kPageSize) at_ = base_;
    std::byte* const first = at_;
    at_ += pages * kPageSize;
    const auto start = Clock::now();
    for (std::byte* page = first; page < at_; page += kPageSize) {
      *reinterpret_cast<volatile std::byte*>(page) = std::byte{1};
    }
    const double ns = seconds_since(start) * 1e9 / static_cast<double>(pages);
    madvise(first, pages * kPageSize, MADV_DONTNEED);
    return ns;
  }

 private:
  std::byte* const base_;
  std::byte* at_;
  std::byte* const end_;
};

// A thread that answers missing-page faults of a range with a copied page.
class UserFaults {
 public:
  explicit UserFaults(const tiering::AddressSpace& space) {
    fd_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | kUserModeOnly));
    if (fd_ < 0) fail_errno("cannot open a userfaultfd");
    uffdio_api api{};
    api.api = UFFD_API;
    if (ioctl(fd_, UFFDIO_API, &api) != 0) fail_errno("cannot set up a userfaultfd");
    uffdio_register area{};
    area.range = {reinterpret_cast<uintptr_t>(space.base()), space.size()};
    area.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(fd_, UFFDIO_REGISTER, &area) != 0) fail_errno("cannot register a range");
    // Blocking reads, the cheapest way to wait; ended by a fault on the last page.
    last_ = space.base() + space.size() - kPageSize;
    thread_ = std::thread([this] {
      pin_thread(1);
      serve();
    });
  }
  ~UserFaults() {
    *reinterpret_cast<volatile std::byte*>(last_) = std::byte{1};
    thread_.join();
    close(fd_);
  }
  UserFaults(const UserFaults&) = delete;
  UserFaults& operator=(const UserFaults&) = delete;

 private:
  void serve() {
    alignas(kPageSize) static std::array<std::byte, kPageSize> page{};
    page[0] = std::byte{1};
    for (;;) {
      uffd_msg message{};
      if (read(fd_, &message, sizeof message) != sizeof message) continue;
      uffdio_copy copy{};
      copy.dst = message.arg.pagefault.address & ~(kPageSize - 1);
      copy.src = reinterpret_cast<uintptr_t>(page.data());
      copy.len = kPageSize;
      ioctl(fd_, UFFDIO_COPY, &copy);
      if (copy.dst == reinterpret_cast<uintptr_t>(last_)) return;
    }
  }

  int fd_ = -1;
  std::byte* last_ = nullptr;
  std::thread thread_;
};

struct Comparison {
  const char* name;
  const char* peer;
  std::optional<double> bound;
  uint64_t peer_pages = kPagesPerRun;
};

void compare(const Options& options, Report& report, const Comparison& what, FreshPages& value,
             FreshPages& peer, uint64_t value_pages = kPagesPerRun) {
  const Pairs pairs = measure_pairs(
      options.seconds, [&] { return value.touch(value_pages); },
      [&] { return peer.touch(what.peer_pages); });
  report.add({.name = what.name,
              .value = pairs.value,
              .unit = "ns",
              .peer = what.peer,
              .peer_value = pairs.peer,
              .ratio = pairs.ratio,
              .bound = what.bound,
              .note = std::to_string(pairs.count) + " pairs"});
}

// Holes of a thin image.
void touch_holes(const Options& options, const WorkDirectory& directory, Report& report) {
  const std::string path = directory.file("thin");
  must(pcow::Image::create(path, {.virtual_size = kThinSize}));
  const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
  const auto region = must(tiering::Region::map(*image, {}));
  const auto anonymous = map_anonymous(kThinSize);
  const auto handled = map_anonymous(kThinSize);
  const UserFaults handler(handled);
  FreshPages plain(anonymous.base(), anonymous.size());
  FreshPages trapped(handled.base(), handled.size());
  const Comparison with_anonymous{"first store to a hole", "anonymous memory", kAnonymousBound};
  const Comparison with_user{"first store to a hole, against user space",
                             "userfaultfd MISSING + UFFDIO_COPY", kUserFaultBound,
                             kUserFaultsPerRun};
  if (options.broken == "user-faults") {
    const auto slow = map_anonymous(kThinSize);
    const UserFaults slow_handler(slow);
    FreshPages value(slow.base(), slow.size());
    compare(options, report, with_anonymous, value, plain, kUserFaultsPerRun);
    compare(options, report, with_user, value, trapped, kUserFaultsPerRun);
    return;
  }
  FreshPages holes(region->base(), region->size());
  compare(options, report, with_anonymous, holes, plain);
  compare(options, report, with_user, holes, trapped);
}

// Pages that the image holds: the kernel copies them.
void touch_cached(const Options& options, const WorkDirectory& directory, Report& report) {
  const std::string path = directory.file("full");
  must(pcow::Image::create(path, {.virtual_size = kCachedSize}));
  const auto image = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
  fill_image(*image, 0, kCachedSize);
  must(image->commit());
  const auto region = must(tiering::Region::map(*image, {}));
  const RawFile file(directory.file("raw"), kCachedSize);
  file.fill(0, kCachedSize);
  const auto raw = map_raw(file.path(), kCachedSize, false);
  FreshPages value(region->base(), region->size());
  FreshPages peer(raw.base(), raw.size());
  compare(options, report, {"first store to an image page", "raw file, private mapping", {}}, value,
          peer);
}

// Pages that only the base of the image holds: what a clone of an image pays for its first store.
void touch_base(const Options& options, const WorkDirectory& directory, Report& report) {
  const std::string base = directory.file("base");
  const std::string clone = directory.file("clone");
  must(pcow::Image::create(base, {.virtual_size = kCachedSize}));
  {
    const auto image = must(pcow::Image::open(base, {.access = pcow::Access::kReadWrite}));
    fill_image(*image, 0, kCachedSize);
    must(image->commit());
    must(image->close());
  }
  must(pcow::Image::create(clone, {.base = pcow::Base{base, pcow::BaseFormat::kPcow}}));
  const auto image = must(pcow::Image::open(
      clone, {.access = pcow::Access::kReadWrite, .base = pcow::BaseAccess::kFollow}));
  const auto region = must(tiering::Region::map(*image, {}));
  const RawFile file(directory.file("raw"), kCachedSize);
  file.fill(0, kCachedSize);
  const auto raw = map_raw(file.path(), kCachedSize, false);
  FreshPages value(region->base(), region->size());
  FreshPages peer(raw.base(), raw.size());
  compare(options, report,
          {"first store to a page of the base", "raw file, private mapping", kBaseBound}, value,
          peer);
  const Pairs pairs = measure_pairs(
      options.seconds, [&] { return value.touch(kPagesPerRun); },
      [&] {
        return write_to_fresh_clusters(file.path(), directory.file("overlay"), kClustersPerRun);
      });
  report.add({.name = "first store to a page of the base, against qcow2",
              .value = pairs.value,
              .unit = "ns",
              .peer = "qcow2 on a backing file, qemu-img bench",
              .peer_value = pairs.peer,
              .ratio = pairs.ratio,
              .bound = kQcow2Bound,
              .note = std::to_string(pairs.count) + " pairs"});
}

}  // namespace

void run_first_touch(const Options& options, Report& report) {
  pin_thread(0);
  const WorkDirectory directory(options.medium);
  touch_holes(options, directory, report);
  if (!options.broken.empty()) return;
  touch_cached(options, directory, report);
  touch_base(options, directory, report);
}

}  // namespace bench
