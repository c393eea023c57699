// SPDX-License-Identifier: BSD-3-Clause
//
// pcow-torture: threads store self-describing values into a region with epochs, by themselves, by
// system calls and by DMA, while epochs are made and pages moved at maximal rate, by a policy or
// not. Every load is checked. The process is killed again and again; then the image has to hold
// exactly what memory held at the last barrier that was acknowledged, or at the one under way.
//
// Exit status: 0 nothing wrong, 1 a violation or an idle mechanism, 2 usage. The last line is the
// result. The seed fixes what the threads choose and when processes are killed, not how threads
// take turns.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "tests/support/huge_pages.h"
#include "tests/support/temp_dir.h"
#include "tests/torture/broken.h"
#include "tests/torture/session.h"

namespace {

using namespace torture;  // NOLINT: this program's own
using Clock = std::chrono::steady_clock;

constexpr uint64_t kLivesOfAnImage = 6;
constexpr uint64_t kBarriersOfALife = 40;
constexpr std::chrono::seconds kLifeMax{30};
constexpr std::chrono::seconds kPatience{300};  // for every mechanism to have been at work

struct Arguments {
  double seconds = 20;
  uint64_t seed = 0;
  uint64_t stores_min = 0;
  uint64_t kills_min = 1;
  uint64_t log_mib = 0;  // 0: as large as usual
  std::string broken;
  bool no_device = false;
};

unsigned long long number(uint64_t value) { return value; }

class Judge {
 public:
  explicit Judge(const Arguments& arguments)
      : arguments_(arguments), random_(arguments.seed), path_(directory_.file("vm.pcow")) {
    void* memory = mmap(nullptr, sizeof(SharedState), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("cannot map the shared state");
    shared_ = static_cast<SharedState*>(memory);  // zeros are what it begins with
  }
  ~Judge() { munmap(shared_, sizeof(SharedState)); }
  Judge(const Judge&) = delete;
  Judge& operator=(const Judge&) = delete;

  int run() {
    const auto end = Clock::now() + std::chrono::duration<double>(arguments_.seconds);
    bool more = true;
    for (uint64_t life = 0; more && !failed_; ++life) {
      if (life % kLivesOfAnImage == 0) new_image();
      more = Clock::now() < end || shared_->counters.stores < arguments_.stores_min ||
             (idle() && Clock::now() < end + kPatience);
      const bool quits = !more || life % kLivesOfAnImage == kLivesOfAnImage - 1;
      live(quits);
      if (!failed_) verify(quits);
    }
    return report();
  }

 private:
  void fail(const std::string& what) {
    if (!failed_) std::printf("VIOLATION %s\n", what.c_str());
    failed_ = true;
  }
  template <typename T>
  T take(pcow::Result<T> result) {
    if (!result) throw std::runtime_error(result.error().message);
    if constexpr (!std::is_void_v<T>) return *std::move(result);
  }

  void new_image() {
    take(pcow::Image::create(path_, {.virtual_size = kRegionSize,
                                     .log_size = arguments_.log_mib * pcow::kMiB,
                                     .overwrite = true}));
    shared_->live = {};
    for (auto& sequence : shared_->device_begun) sequence = 0;
    for (auto& sequence : shared_->device_done) sequence = 0;
    shared_->acknowledged = 0;
    shared_->barriers = 0;
    shared_->cuts[0] = {};
  }

  void live(bool quits) {
    shared_->quit = false;
    const uint64_t seed = random_();
    const uint64_t last = shared_->barriers + random_() % kBarriersOfALife;
    const auto rest = std::chrono::microseconds(random_() % 20'000);
    const auto longest = Clock::now() + kLifeMax;
    std::fflush(stdout);
    const pid_t child = fork();
    if (child < 0) throw std::runtime_error("cannot fork");
    if (child == 0) run_session(path_, *shared_, seed, !arguments_.no_device);
    while (shared_->barriers < last && !shared_->violated && Clock::now() < longest) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(rest);
    if (quits) {
      shared_->quit = true;
    } else {
      kill(child, SIGKILL);
      ++kills_;
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) throw std::runtime_error("cannot wait");
    if (shared_->violated) return fail(shared_->message.data());
    const bool expected = quits ? WIFEXITED(status) && WEXITSTATUS(status) == 0
                                : WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (!expected) fail("the process ended by itself, with status " + std::to_string(status));
  }

  // Recovers, finds out which barrier the image holds, and compares.
  void verify(bool closed) {
    const auto image = take(pcow::Image::open(path_, {.access = pcow::Access::kReadWrite}));
    uint64_t ordinal = 0;
    take(image->read(0, std::as_writable_bytes(std::span(&ordinal, 1))));
    const uint64_t acknowledged = shared_->acknowledged;
    const uint64_t begun = shared_->barriers;
    if (ordinal < acknowledged) {
      return fail("barrier " + std::to_string(acknowledged) +
                  " was acknowledged, and the image holds " + std::to_string(ordinal));
    }
    if (ordinal > begun) return fail("barrier " + std::to_string(ordinal) + " out of nowhere");
    in_doubt_ += ordinal > acknowledged ? 1U : 0U;
    const Cut& cut = shared_->cuts.at(ordinal % shared_->cuts.size());
    if (!closed && cut.ordinal != ordinal) return fail("a barrier too old");
    compare(*image, cut, closed);
    shared_->barriers = ordinal;
    shared_->acknowledged = ordinal;
    const std::vector<pcow::SnapshotInfo> snapshots = take(image->snapshots());
    take(image->close());
    for (const pcow::SnapshotInfo& snapshot : snapshots) verify_snapshot(snapshot.name);
    const pcow::CheckReport check = take(pcow::check_image(path_, false, {}));
    if (check.corruptions > 0) fail("the checker says: " + check.messages.front());
  }

  // Afterwards `live` is what the image holds.
  void compare(const pcow::Image& image, const Cut& cut, bool closed) {
    for_each_place(image, [&](Place place, uint64_t found) {
      if (owner_of(place) == kDeviceOwner) return compare_device(place, cut, closed, found);
      uint32_t& live = shared_->live.at(place.number());
      if (!closed) live = cut.sequence.at(place.number());
      expect(place, value_of(place, live), found);
    });
  }

  // Calls fn(place, what the image holds there), until something is wrong.
  template <typename Fn>
  void for_each_place(const pcow::Image& image, const Fn& fn) {
    std::vector<std::byte> data(kRegionSize);
    take(image.read(0, data));
    for (uint64_t page = 1; page < kPages && !failed_; ++page) {
      for (uint64_t index = 0; index < kPlacesPerPage; ++index) {
        const Place place{page, index};
        uint64_t found = 0;
        std::memcpy(&found, data.data() + place.offset(), sizeof found);
        fn(place, found);
      }
    }
  }

  void compare_device(Place place, const Cut& cut, bool closed, uint64_t found) {
    auto& done = shared_->device_done.at(place.page);
    auto& begun = shared_->device_begun.at(place.page);
    if (closed) return expect(place, value_of(place, done), found);
    uint32_t sequence = cut.device_done.at(place.page);
    const uint32_t last = std::min(cut.device_begun.at(place.page), begun.load());
    // Under way at the barrier: what came of it is what it goes on with.
    while (sequence < last && found != value_of(place, sequence)) ++sequence;
    in_flight_ += sequence != last || cut.device_done.at(place.page) != last ? 1U : 0U;
    expect(place, value_of(place, sequence), found);
    done = sequence;
    begun = sequence;
  }

  // It keeps one moment, and the last ones are known.
  void verify_snapshot(const std::string& name) {
    const auto image = take(pcow::Image::open(path_, {.snapshot = name}));
    uint64_t ordinal = 0;
    take(image->read(0, std::as_writable_bytes(std::span(&ordinal, 1))));
    const Cut& cut = shared_->cuts.at(ordinal % shared_->cuts.size());
    if (cut.ordinal != ordinal) return;
    ++snapshots_checked_;
    for_each_place(*image, [&](Place place, uint64_t found) {
      uint32_t sequence = cut.sequence.at(place.number());
      if (owner_of(place) == kDeviceOwner) {
        // Any of those under way.
        sequence = std::clamp(static_cast<uint32_t>(found), cut.device_done.at(place.page),
                              cut.device_begun.at(place.page));
      }
      expect(place, value_of(place, sequence), found, "in a snapshot");
    });
  }

  void expect(Place place, uint64_t expected, uint64_t found, const char* where = "after a crash") {
    if (expected == found) return;
    std::array<char, 200> text{};
    std::snprintf(
        text.data(), text.size(),
        "%s: page %llu, place %llu, owner %llu: expected store %llu, found %llu (%016llx)", where,
        number(place.page), number(place.index), number(owner_of(place)),
        number(expected & 0xffffffffU), number(found & 0xffffffffU), number(found));
    fail(text.data());
  }

  int report() {
    const Counters& now = shared_->counters;
    std::printf("stores=%llu checks=%llu syscalls=%llu device-stores=%llu device-pins=%llu\n",
                number(now.stores), number(now.checks), number(now.syscalls),
                number(now.device_stores), number(now.device_pins));
    std::printf(
        "epochs=%llu rounds=%llu precopied=%llu residue=%llu pinned=%llu logged-bytes=%llu\n",
        number(now.epochs), number(now.rounds), number(now.precopied), number(now.residue),
        number(now.pinned), number(now.logged_bytes));
    std::printf("checkpointed=%llu demoted=%llu kept=%llu queries=%llu flushes=%llu\n",
                number(now.checkpointed), number(now.demoted), number(now.kept),
                number(now.queries), number(now.flushes));
    std::printf(
        "promoted=%llu unmapped=%llu huge=%llu folded=%llu discards=%llu chunk-discards=%llu\n",
        number(now.promoted), number(now.unmapped), number(now.huge), number(now.folded),
        number(now.discards), number(now.chunk_discards));
    std::printf("snapshots=%llu deletions=%llu snapshots-checked=%llu\n", number(now.snapshots),
                number(now.deletions), number(snapshots_checked_));
    std::printf("kills=%llu in-doubt=%llu dma-in-flight=%llu early=%llu holds=%llu restarts=%llu\n",
                number(kills_), number(in_doubt_), number(in_flight_), number(now.early),
                number(now.holds), number(now.restarts));
    std::printf("pause of the last process: p50=%.3f ms p99=%.3f ms; max of all=%.3f ms\n",
                static_cast<double>(now.pause_p50_ns) / 1e6,
                static_cast<double>(now.pause_p99_ns) / 1e6,
                static_cast<double>(now.pause_max_ns) / 1e6);
    const char* result = failed_ ? "failed" : idle() ? "idle" : "passed";
    std::printf("RESULT %s seed=%llu stores=%llu kills=%llu lost=%d\n", result,
                number(arguments_.seed), number(now.stores), number(kills_), failed_ ? 1 : 0);
    return failed_ || idle() ? 1 : 0;
  }

  // Whether something did not happen that should have.
  bool idle() const {
    const Counters& now = shared_->counters;
    const bool device_idle = !arguments_.no_device && (now.device_stores == 0 || now.pinned == 0);
    return device_idle || now.syscalls == 0 || now.precopied == 0 || now.residue == 0 ||
           now.demoted == 0 || now.kept == 0 || now.checkpointed == 0 || now.flushes == 0 ||
           now.promoted == 0 || now.unmapped == 0 || now.discards == 0 || now.chunk_discards == 0 ||
           (now.huge == 0 && test::host_makes_huge_chunks()) || now.snapshots == 0 ||
           now.deletions == 0 || now.folded == 0 || snapshots_checked_ == 0 ||
           kills_ < arguments_.kills_min;
  }

  const Arguments& arguments_;
  std::mt19937_64 random_;
  test::TempDir directory_;
  const std::string path_;
  SharedState* shared_ = nullptr;
  uint64_t kills_ = 0;
  uint64_t in_doubt_ = 0;   // the barrier under way had made it
  uint64_t in_flight_ = 0;  // places of the device
  uint64_t snapshots_checked_ = 0;
  bool failed_ = false;
};

int list_breaks() {
  for (const BreakName& entry : break_names()) std::printf("%-22s %s\n", entry.name, entry.what);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Tortures a region with epochs, and looks for a lost store."};
  Arguments arguments;
  bool lists = false;
  app.add_option("--seconds", arguments.seconds, "how long")->capture_default_str();
  app.add_option("--seed", arguments.seed, "default: another one each time");
  app.add_option("--stores", arguments.stores_min, "go on until so many stores were checked");
  app.add_option("--kills-min", arguments.kills_min, "fewer kills are a failure");
  app.add_option("--log-mib", arguments.log_mib, "a small log: the guest is faster than it takes");
  app.add_option("--break", arguments.broken, "a variant with a deliberate mistake");
  app.add_flag("--no-device", arguments.no_device,
               "without DMA: on DAX the kernel registers no buffers with io_uring");
  app.add_flag("--list-breaks", lists, "name these variants");
  CLI11_PARSE(app, argc, argv);
  if (lists) return list_breaks();
  for (const BreakName& entry : break_names()) {
    if (arguments.broken == entry.name) active_break = entry.variant;
  }
  if (!arguments.broken.empty() && active_break == Break::kNone) {
    std::fprintf(stderr, "pcow-torture: --break %s is unknown; see --list-breaks\n",
                 arguments.broken.c_str());
    return 2;
  }
  if (arguments.no_device && active_break == Break::kNoPin) {
    std::fprintf(stderr, "pcow-torture: --break %s needs a device, so not --no-device\n",
                 arguments.broken.c_str());
    return 2;
  }
  if (arguments.seed == 0) arguments.seed = std::random_device{}();
  std::printf("seed: --seed %llu\n", number(arguments.seed));
  try {
    return Judge(arguments).run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pcow-torture: %s\n", error.what());
    return 2;
  }
}
