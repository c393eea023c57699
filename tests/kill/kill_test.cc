// SPDX-License-Identifier: BSD-3-Clause
//
// A process that logs epochs, checkpoints and takes snapshots is killed at a random moment, again
// and again. What it had announced as done has to be there, and the image is exactly one epoch.
//
// What an epoch changes follows from its number, so that the number of the epoch which an image is
// left with says what it has to hold, and the name of a snapshot what that has to hold.
//
// $PCOW_KILLS says how often (default 40). With $PCOW_KILL_LIE the worker announces a commit as
// done before it is; the test has to find out.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <string>

#include "tests/support/image_fixture.h"
#include "tests/support/test_seed.h"

namespace pcow {
namespace {

constexpr uint64_t kSize = 3 * kGiB;
constexpr uint64_t kPlaces = 3000;  // pages that are ever written
constexpr uint64_t kChangesMax = 150;
constexpr uint64_t kSnapshotEvery = 5;
constexpr size_t kSnapshotsMax = 4;
constexpr std::chrono::milliseconds kLifeMax{80};
constexpr std::chrono::duration<int, std::milli> kOpenMax{60000};

using State = std::map<uint64_t, uint64_t>;  // page → value

// Some in a row, some alone, in every GiB.
uint64_t page_of(uint64_t place) {
  const uint64_t in_gib = place % 8 < 6 ? place : place * 61;
  return place % 3 * kPagesPerChunk * kChunksPerSegment + in_gib;
}

// Pages of different values mostly differ in a few lines.
test::Page content_of(uint64_t value) {
  if (value == 0) return test::Page(kPageSize);
  test::Page page = test::pattern_page(1 + value % 3);
  std::memcpy(page.data() + value % (kPageSize / sizeof value) * sizeof value, &value,
              sizeof value);
  return page;
}

State changes_of(unsigned long seed, uint64_t epoch) {
  std::mt19937_64 random(seed + epoch);
  State changes;
  for (uint64_t i = random() % kChangesMax; i > 0; --i) {
    changes[page_of(random() % kPlaces)] = random() % 8 == 0 ? 0 : random();
  }
  // What changes nothing would be no epoch.
  changes[page_of(random() % kPlaces)] = random() | 1;
  return changes;
}

std::string name_of(uint64_t epoch) { return "e" + std::to_string(epoch); }

enum class Step : uint64_t { kCommit, kSnapshot, kDelete };

struct Message {
  Step step;
  uint64_t epoch;
  bool done;
};

// The process that is killed. Errors end it with a message.
class Worker {
 public:
  Worker(const std::string& path, unsigned long seed, int fd)
      : seed_(seed), fd_(fd), random_(seed ^ static_cast<unsigned long>(getpid())) {
    OpenOptions options;
    options.access = Access::kReadWrite;
    image_ = take(Image::open(path, options));
  }

  [[noreturn]] void run() {
    for (uint64_t epoch = image_->info().committed_epoch.value + 1;; ++epoch) {
      if (lies_) say({Step::kCommit, epoch, true});
      log(changes_of(seed_, epoch));
      if (!lies_) say({Step::kCommit, epoch, false});
      if (take(image_->commit()).value != epoch) die("an epoch has another number");
      say({Step::kCommit, epoch, true});
      if (random_() % 3 == 0) take(image_->checkpoint(1 + random_() % 200));
      if (epoch % kSnapshotEvery == 0) snapshot(epoch);
    }
  }

 private:
  [[noreturn]] static void die(const std::string& message) {
    std::fprintf(stderr, "the worker failed: %s\n", message.c_str());
    _exit(2);
  }
  template <typename T>
  static T take(Result<T> result) {
    if (!result) die(result.error().message);
    return *std::move(result);
  }
  static void take(const Result<void>& result) {
    if (!result) die(result.error().message);
  }
  void say(const Message& message) const {
    if (write(fd_, &message, sizeof message) != sizeof message) die("nobody listens");
  }

  // In a few calls.
  void log(const State& changes) {
    test::PageBatch batch;
    for (const auto& [page, value] : changes) batch.add(page, content_of(value));
    for (auto rest = batch.writes(); !rest.empty();) {
      const auto part = rest.first(1 + random_() % rest.size());
      take(image_->log_pages(part));
      rest = rest.subspan(part.size());
    }
  }

  void snapshot(uint64_t epoch) {
    const auto kept = take(image_->snapshots());
    if (kept.size() >= kSnapshotsMax) {
      const std::string& oldest = kept.at(random_() % kept.size()).name;
      const uint64_t number = std::stoull(oldest.substr(1));
      say({Step::kDelete, number, false});
      take(image_->delete_snapshot(oldest));
      say({Step::kDelete, number, true});
    }
    say({Step::kSnapshot, epoch, false});
    take(image_->create_snapshot(name_of(epoch)));
    say({Step::kSnapshot, epoch, true});
  }

  const bool lies_ = std::getenv("PCOW_KILL_LIE") != nullptr;
  unsigned long seed_;
  int fd_;
  std::mt19937_64 random_;
  std::unique_ptr<Image> image_;
};

class KillTest : public ::testing::TestWithParam<int> {
 protected:
  // Lets a worker live for a while. Notes what it announced.
  void live_and_die() {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    const pid_t worker = fork();
    ASSERT_GE(worker, 0);
    if (worker == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      close(ends[0]);
      Worker(path_, seed_, ends[1]).run();
    }
    close(ends[1]);
    // Half of the lives count from the first word, however long a slow medium takes to open.
    if (random_() % 2 == 0) {
      pollfd word{ends[0], POLLIN, 0};
      ASSERT_EQ(poll(&word, 1, kOpenMax.count()), 1) << "the worker says nothing";
    }
    std::uniform_int_distribution<int64_t> life(0, std::chrono::microseconds(kLifeMax).count());
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(life(random_));
    listen_until(end, ends[0]);
    kill(worker, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(worker, &status, 0), worker);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the worker ended by itself";
    listen_until(std::chrono::steady_clock::time_point::max(), ends[0]);
    close(ends[0]);
  }

  // To the end of the pipe, or of the time.
  void listen_until(std::chrono::steady_clock::time_point end, int fd) {
    for (;;) {
      const auto now = std::chrono::steady_clock::now();
      if (now >= end) return;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - now).count();
      pollfd waiting{fd, POLLIN, 0};
      poll(&waiting, 1, static_cast<int>(std::min<int64_t>(left, 1000)));
      if (waiting.revents == 0) continue;
      Message message{};
      const ssize_t got = read(fd, &message, sizeof message);
      if (got == 0) return;
      ASSERT_EQ(got, static_cast<ssize_t>(sizeof message));
      note(message);
    }
  }

  void note(const Message& message) {
    under_way_ = message.done ? std::nullopt : std::optional(message);
    if (!message.done) return;
    if (message.step == Step::kCommit) acknowledged_ = message.epoch;
    if (message.step == Step::kSnapshot) snapshots_.insert(name_of(message.epoch));
    if (message.step == Step::kDelete) snapshots_.erase(name_of(message.epoch));
  }

  void check() {
    test::expect_clean_check(path_, true);
    {
      const auto image = test::open_image(path_);  // recovers
      ASSERT_NE(image, nullptr);
      const uint64_t epoch = image->info().committed_epoch.value;
      const bool committing = under_way_ && under_way_->step == Step::kCommit;
      ASSERT_GE(epoch, acknowledged_) << "an acknowledged epoch is gone";
      ASSERT_LE(epoch, acknowledged_ + (committing ? 1 : 0)) << "an epoch out of nowhere";
      acknowledged_ = epoch;
      while (reached_ < epoch) {
        for (const auto& [page, value] : changes_of(seed_, ++reached_)) state_[page] = value;
        if (reached_ % kSnapshotEvery == 0) kept_[name_of(reached_)] = state_;
      }
      compare(*image, state_);
      check_names(*image);
      ASSERT_OK(image->reclaim_unowned());  // space that was reserved and not yet used
      ASSERT_OK(image->close());
    }
    test::expect_clean_check(path_);
    for (const std::string& name : snapshots_) {
      SCOPED_TRACE("snapshot " + name);
      OpenOptions options;
      options.snapshot = name;
      const auto snapshot = Image::open(path_, options);
      ASSERT_OK(snapshot);
      compare(**snapshot, kept_.at(name));
    }
  }

  // The snapshots are those announced, but for the one that was being made or deleted.
  void check_names(const Image& image) {
    const auto found = image.snapshots();
    ASSERT_OK(found);
    std::set<std::string> names;
    for (const SnapshotInfo& snapshot : *found) names.insert(snapshot.name);
    const bool doubtful = under_way_ && under_way_->step != Step::kCommit;
    const std::string doubt = doubtful ? name_of(under_way_->epoch) : "";
    for (const std::string& name : snapshots_) {
      ASSERT_TRUE(names.contains(name) || name == doubt) << name << " is gone";
    }
    for (const std::string& name : names) {
      ASSERT_TRUE(snapshots_.contains(name) || name == doubt) << name << " is back";
    }
    snapshots_ = names;
    std::erase_if(kept_, [&](const auto& kept) { return !names.contains(kept.first); });
  }

  static void compare(const Image& image, const State& state) {
    for (uint64_t place = 0; place < kPlaces; ++place) {
      const uint64_t page = page_of(place);
      const auto written = state.find(page);
      ASSERT_EQ(test::read_page(image, page),
                content_of(written == state.end() ? 0 : written->second))
          << "page " << page;
    }
  }

  const unsigned long seed_ = test::test_seed();
  std::mt19937_64 random_{seed_};
  test::TempDir directory_;
  const std::string path_ = directory_.file("vm.pcow");
  uint64_t acknowledged_ = 0;
  std::optional<Message> under_way_;  // announced as begun, and not as done
  std::set<std::string> snapshots_;
  uint64_t reached_ = 0;  // the epoch of `state_`
  State state_;
  std::map<std::string, State> kept_;  // of the epochs that may have a snapshot
};

// By the number of files that the image is striped over.
TEST_P(KillTest, WhatWasAcknowledgedIsThere) {
  const char* wanted = std::getenv("PCOW_KILLS");
  const int kills = wanted != nullptr ? std::stoi(wanted) : 40;
  CreateOptions options;
  options.virtual_size = kSize;
  options.log_size = 4 * kMiB;
  for (int file = 1; file < GetParam(); ++file) {
    options.stripe.push_back("vm." + std::to_string(file));
    options.stripe_unit = kWindowSize;
  }
  ASSERT_OK(Image::create(path_, options));
  acknowledged_ = reached_ =
      test::open_image(path_, Access::kReadOnly)->info().committed_epoch.value;
  std::map<Step, int> hit;
  for (int i = 1; i <= kills; ++i) {
    SCOPED_TRACE("kill " + std::to_string(i));
    under_way_.reset();
    live_and_die();
    if (HasFatalFailure()) return;
    if (under_way_) ++hit[under_way_->step];
    check();
    if (HasFatalFailure()) return;
  }
  std::printf("kills=%d epochs=%lu in-commit=%d in-snapshot=%d in-delete=%d\n", kills,
              static_cast<unsigned long>(acknowledged_), hit[Step::kCommit], hit[Step::kSnapshot],
              hit[Step::kDelete]);
  EXPECT_GT(acknowledged_, 0U);
}

INSTANTIATE_TEST_SUITE_P(Files, KillTest, ::testing::Values(1, 4));

}  // namespace
}  // namespace pcow
