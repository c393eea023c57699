// SPDX-License-Identifier: BSD-3-Clause
//
// What epochs cost a guest: its throughput against the same region without them, how long it rests
// at barriers, how both grow with what is mapped, and the processor time of looking at everything.
// The guest is this thread; nothing stops it but a lock, so what a hypervisor takes to bring its
// vCPUs to rest comes on top.
#include <sys/resource.h>
#include <tiering/region.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/bench/benchmarks.h"
#include "tests/bench/medium.h"
#include "tests/bench/pairs.h"
#include "tiering/epoch_manager.h"
#include "tiering/migration.h"

namespace bench {
namespace {

using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;
using std::chrono::milliseconds;
using tiering::IntervalOptions;

constexpr uint64_t kLogSize = 256 * kMiB;  // the largest
constexpr uint64_t kStoresPerBatch = 1024;

class Guest final : public tiering::EpochHost {
 public:
  bool while_quiet(const std::function<void()>& body) override {
    ++asking_;
    const std::unique_lock quiet(running_);
    --asking_;
    body();
    return true;
  }
  void epoch_failed(const pcow::Error& error, bool) override { fail(error.message); }
  void epochs_recovered() override {}
  void log_grown(uint64_t, bool) override {}

  // A shared lock alone would let a guest that runs all the time pass by who waits for quiet.
  template <typename Fn>
  void run(const Fn& batch) {
    while (asking_ > 0) std::this_thread::yield();
    const std::shared_lock running(running_);
    batch();
  }

 private:
  std::shared_mutex running_;
  std::atomic<int> asking_{0};
};

// A region whose pages all hold something, and who makes its epochs.
class Subject {
 public:
  Subject(const WorkDirectory& directory, const char* name, uint64_t size,
          const IntervalOptions& interval, tiering::PolicyKind policy = tiering::PolicyKind::kOff,
          tiering::MigrationOptions migration = {}) {
    migration.parallel = tiering::on_onetbb;
    const std::string path = directory.file(name);
    must(
        pcow::Image::create(path, {.virtual_size = size, .log_size = kLogSize, .overwrite = true}));
    image_ = must(pcow::Image::open(path, {.access = pcow::Access::kReadWrite}));
    fill_image(*image_, 0, size);
    must(image_->commit());
    region_ = must(tiering::Region::map(*image_, {.persistence = tiering::Persistence::kEpoch}));
    guarded_.emplace(*region_);
    migration_.emplace(*guarded_, size, 0, migration);
    must(migration_->set_parameters({.kind = policy}));
    manager_.emplace(*guarded_, guest, tiering::EpochOptions{.interval = interval}, &*migration_);
  }
  ~Subject() {
    manager_.reset();
    region_.reset();
  }
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;

  tiering::EpochManager& manager() { return *manager_; }
  tiering::Migration& migration() { return *migration_; }
  uint64_t pages() const { return region_->size() / kPageSize; }
  void store(uint64_t page, uint64_t value) const {
    std::byte* at = region_->base() + page * kPageSize + value % 64 * 64;
    *reinterpret_cast<volatile uint64_t*>(at) = value;
  }
  void load(uint64_t page) const {
    (void)*reinterpret_cast<const volatile uint64_t*>(region_->base() + page * kPageSize);
  }
  void load_all() const {
    for (uint64_t page = 0; page < pages(); ++page) load(page);
  }
  void store_to_all() { store_to_first(pages()); }
  void store_to_first(uint64_t count) {
    for (uint64_t page = 0; page < count; ++page) guest.run([&] { store(page, page + 1); });
  }
  uint64_t huge_chunks() {
    return must(guarded_->with([](tiering::Region& region) { return region.status(); }))
        .huge_chunks;
  }

  Guest guest;

 private:
  std::unique_ptr<pcow::Image> image_;
  std::unique_ptr<tiering::Region> region_;
  std::optional<tiering::GuardedRegion> guarded_;
  std::optional<tiering::Migration> migration_;
  std::optional<tiering::EpochManager> manager_;
};

// Random pages, in a window of so many, another one every 100 ms.
class Workload {
 public:
  Workload(Subject& subject, uint64_t window_pages, unsigned long seed)
      : subject_(subject), window_(window_pages), random_(seed) {}

  // Nanoseconds a store.
  double run(double seconds) {
    const auto start = Clock::now();
    uint64_t stores = 0;
    double elapsed = 0;
    for (; elapsed < seconds; elapsed = seconds_since(start)) {
      move_window();
      subject_.guest.run([&] {
        for (uint64_t i = 0; i < kStoresPerBatch; ++i) {
          const uint64_t value = random_.next();
          subject_.store(first_ + (value >> 20) % window_, value);
        }
      });
      stores += kStoresPerBatch;
    }
    return elapsed * 1e9 / static_cast<double>(stores);
  }

  // Each page of the window once, then nothing until it moves.
  void touch_windows(double seconds) {
    const auto start = Clock::now();
    while (seconds_since(start) < seconds) {
      if (!move_window()) {
        std::this_thread::sleep_for(milliseconds(1));
        continue;
      }
      for (uint64_t page = first_; page < first_ + window_; ++page) {
        subject_.guest.run([&] { subject_.store(page, random_.next()); });
      }
    }
  }

 private:
  bool move_window() {
    if (Clock::now() < moved_ + milliseconds(100)) return false;
    moved_ = Clock::now();
    first_ =
        window_ >= subject_.pages() ? 0 : (first_ + window_) % (subject_.pages() - window_ + 1);
    return true;
  }

  Subject& subject_;
  const uint64_t window_;
  Random random_;
  uint64_t first_ = 0;
  Clock::time_point moved_;
};

struct Throughput {
  const char* name;
  uint64_t window_pages;
  IntervalOptions interval;
  double run_seconds;
  std::optional<double> bound;
  size_t least_runs = 9;
};

constexpr IntervalOptions kDefault{};
constexpr IntervalOptions kFixed{.min = milliseconds(100), .max = milliseconds(100)};

void throughput(const Options& options, const WorkDirectory& directory, Report& report) {
  const uint64_t size = kGiB;
  const uint64_t all = size / kPageSize;
  const uint64_t few = 5 * kMiB / kPageSize;
  const double longest = options.quick ? 2 : 65;  // more than two of the longest intervals
  constexpr double kPeerSeconds = 5;              // a run without epochs is like any other
  const Throughput rows[] = {
      {"5 MiB dirty in 100 ms", few, kDefault, 2, 1 / 0.98},
      {"random pages of 1 GiB", all, kDefault, longest, 1 / 0.95, 3},
      {"5 MiB dirty in 100 ms, epochs of 100 ms", few, kFixed, 2, {}},
      {"random pages of 1 GiB, epochs of 100 ms", all, kFixed, 2, {}},
  };
  for (const Throughput& row : rows) {
    Subject subject(directory, "subject", size, row.interval);
    Subject peer(directory, "peer", size, row.interval);
    subject.store_to_all();
    peer.store_to_all();
    Workload workload(subject, row.window_pages, options.seed);
    Workload same(peer, row.window_pages, options.seed);
    must(subject.manager().start());
    workload.run(row.run_seconds);  // until the interval is what it becomes
    uint64_t epochs = 0;
    const auto with = [&] {
      const uint64_t before = subject.manager().statistics().epochs;
      const double ns = workload.run(row.run_seconds);
      epochs += subject.manager().statistics().epochs - before;
      return ns;
    };
    const auto without = [&] { return same.run(std::min(row.run_seconds, kPeerSeconds)); };
    const Pairs pairs = measure_pairs(options.seconds, with, without, row.least_runs);
    const auto now = subject.manager().statistics();
    subject.manager().stop();
    report.add({.name = row.name,
                .value = pairs.value,
                .unit = "ns/store",
                .peer = "the same region without epochs",
                .peer_value = pairs.peer,
                .ratio = pairs.ratio,
                .bound = row.bound,
                .note = std::to_string(pairs.count) + " pairs, " + std::to_string(epochs) +
                        " epochs; interval at the end " +
                        std::to_string(now.interval / milliseconds(1)) + " ms; holds " +
                        std::to_string(now.holds)});
  }
}

double milliseconds_of(uint64_t ns) { return static_cast<double>(ns) / 1e6; }

void pauses(const Options& options, const WorkDirectory& directory, Report& report) {
  Subject subject(directory, "subject", kGiB, kFixed);
  subject.load_all();
  must(subject.manager().start());
  Workload workload(subject, 50 * kMiB / kPageSize, options.seed);
  workload.touch_windows(std::max(options.seconds, 5.0));
  subject.manager().stop();
  const tiering::EpochStatistics now = subject.manager().statistics();
  std::string all;
  now.pause_ns.for_each([&](uint64_t up_to_ns, uint64_t count) {
    all += " " + std::to_string(count) + "x" + std::to_string(up_to_ns / 1000);
  });
  const std::string note = std::to_string(now.epochs) + " epochs, " +
                           std::to_string(now.residue_pages) + " pages at barriers, " +
                           std::to_string(now.precopied_pages) + " before";
  report.add({.name = "barrier pause p50, 50 MiB dirty",
              .value = milliseconds_of(now.pause_ns.quantile(0.5)),
              .unit = "ms",
              .bound = 0.3,
              .note = note});
  report.add({.name = "barrier pause p99, 50 MiB dirty",
              .value = milliseconds_of(now.pause_ns.quantile(0.99)),
              .unit = "ms",
              .bound = 1.0,
              .note = "all, in us:" + all});
}

double seconds_of(int who) {
  rusage use{};
  if (getrusage(who, &use) != 0) fail_errno("getrusage");
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(use.ru_utime) + seconds(use.ru_stime);
}

// Processor time of everybody but the guest.
double tiering_seconds() { return seconds_of(RUSAGE_SELF) - seconds_of(RUSAGE_THREAD); }

// The same dirty set in ever more memory, of which nothing else is mapped, or all of it, as pages
// of the image.
void growth(const Options& options, const WorkDirectory& directory, Report& report) {
  std::vector<uint64_t> sizes_gib = {1, 4};
  if (!options.quick) sizes_gib.push_back(16);
  for (const bool mapped : {false, true}) {
    std::optional<double> smallest;
    const std::string state = mapped ? " GiB mapped in 4 KiB pages" : " GiB, the rest untouched";
    for (const uint64_t gib : sizes_gib) {
      Subject subject(directory, "subject", gib * kGiB, kFixed);
      if (mapped) subject.load_all();
      Workload workload(subject, 4 * kMiB / kPageSize, options.seed);
      const double before = tiering_seconds();
      must(subject.manager().start());
      workload.touch_windows(std::max(options.seconds, 5.0));
      subject.manager().stop();
      const double busy = tiering_seconds() - before;
      const tiering::EpochStatistics now = subject.manager().statistics();
      const double pause = milliseconds_of(now.pause_ns.quantile(0.5));
      report.add({.name = "pause p50, " + std::to_string(gib) + state,
                  .value = pause,
                  .unit = "ms",
                  .peer = smallest ? "1 GiB" : "",
                  .peer_value = smallest,
                  .ratio = smallest ? std::optional(pause / *smallest) : std::nullopt,
                  .bound = smallest ? std::optional(static_cast<double>(gib) / 2) : std::nullopt,
                  .note = std::to_string(now.epochs) + " epochs of 4 MiB, p99 " +
                          std::to_string(milliseconds_of(now.pause_ns.quantile(0.99))) +
                          " ms; all of an epoch took " +
                          std::to_string(1000 * busy / static_cast<double>(now.epochs)) +
                          " ms of a processor"});
      if (!smallest) smallest = pause;
    }
  }
}

struct Tracked {
  double share = 0;  // of a core
  uint64_t huge_chunks = 0;
  uint64_t watched_chunks = 0;
};

// Everything that is done while little is stored: a step and an epoch a second, reads sampled. Half
// of it is in DRAM, the other half mapped from the image, and some of that is read.
Tracked track(const Options& options, const WorkDirectory& directory, uint64_t gib,
              uint64_t huge_chunks_max) {
  constexpr IntervalOptions kSecond{.min = milliseconds(1000), .max = milliseconds(1000)};
  constexpr uint64_t kStepsToForget = tiering::PageRecord::kRunMax + 10;
  Subject subject(directory, "subject", gib * kGiB, kSecond, tiering::PolicyKind::kHeat,
                  {.huge_chunks_max = huge_chunks_max});
  const uint64_t half = subject.pages() / 2;
  subject.load_all();
  subject.store_to_first(half);
  must(subject.manager().start());
  Random random(options.seed);
  const auto idle = [&] {
    subject.guest.run([&] {
      subject.store(1, 1);
      for (int i = 0; i < 100; ++i) subject.load(half + random.next() % half);
    });
    std::this_thread::sleep_for(milliseconds(100));
  };
  // Until what was stored at the beginning is forgotten. The epochs of the flushes make chunks
  // huge.
  while (subject.migration().statistics().steps < kStepsToForget) {
    subject.manager().flush([](const auto&) {});
    idle();
  }
  const uint64_t watched = subject.migration().statistics().watched_chunks;
  const double before = tiering_seconds();
  const auto start = Clock::now();
  while (seconds_since(start) < std::max(options.seconds, 10.0)) idle();
  Tracked tracked;
  tracked.share = (tiering_seconds() - before) / seconds_since(start);
  subject.manager().stop();
  tracked.huge_chunks = subject.huge_chunks();
  tracked.watched_chunks = subject.migration().statistics().watched_chunks - watched;
  return tracked;
}

// What grows with memory is told from what does not by two sizes.
void tracking(const Options& options, const WorkDirectory& directory, Report& report) {
  constexpr uint64_t kSmall = 1;
  const uint64_t large = options.quick ? 2 : 8;
  struct Row {
    const char* name;
    uint64_t huge_chunks_max;
    std::optional<double> bound;
  };
  for (const Row& row :
       {Row{"tracking 64 GiB at 1 s", 64, 1.0}, Row{"the same, all in 4 KiB pages", 0, {}}}) {
    const Tracked one = track(options, directory, kSmall, row.huge_chunks_max);
    const Tracked more = track(options, directory, large, row.huge_chunks_max);
    const double growth = std::max(0.0, more.share - one.share);  // less is noise
    const double of_a_gib = growth / static_cast<double>(large - kSmall);
    const double fixed = one.share - of_a_gib * kSmall;
    report.add({.name = row.name,
                .value = 100 * (fixed + 64 * of_a_gib),
                .unit = "% of a core",
                .bound = row.bound,
                .note = "from " + std::to_string(100 * one.share) + " % for " +
                        std::to_string(kSmall) + " GiB and " + std::to_string(100 * more.share) +
                        " % for " + std::to_string(large) + " GiB, of which " +
                        std::to_string(more.huge_chunks * 2) + " MiB in pages of 2 MiB; " +
                        std::to_string(more.watched_chunks) + " chunks watched"});
  }
}

}  // namespace

void run_epochs(const Options& options, Report& report) {
  const uint64_t needed = (options.quick ? 6 : 18) * kGiB;
  if (available_memory() < needed) {
    fail("not enough memory: " + pcow::format_size(needed) + " needed, " +
         pcow::format_size(available_memory()) + " available");
  }
  const WorkDirectory directory(options.medium);
  throughput(options, directory, report);
  pauses(options, directory, report);
  growth(options, directory, report);
  tracking(options, directory, report);
}

}  // namespace bench
