// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/workloads.h"

#include <algorithm>
#include <iterator>

namespace crash {
namespace {

using pcow::kChunkSize;
using pcow::kChunksPerSegment;
using pcow::kGiB;
using pcow::kPagesPerChunk;
using pcow::kPagesPerSegment;

void create(Driver& driver) {
  driver.create();
  driver.open();
  driver.write({0});
  driver.commit();
  driver.close();
}

// First pages of a GiB: slots, a segment, a table; of a chunk; of a page.
void allocate(Driver& driver) {
  begin(driver);
  driver.write({0});
  driver.write({kPagesPerSegment + 5, kPagesPerSegment + 6});
  driver.commit();
  driver.write({1, kPagesPerChunk});
  driver.commit();
}

// Epochs over pages that exist: nothing but the root changes.
void commit(Driver& driver) {
  driver.create();
  driver.open();
  driver.write({0, 1});
  driver.commit();
  driver.close();
  driver.open();
  driver.start();
  driver.write({0});
  driver.commit();
  driver.write({1});
  driver.commit();
  driver.commit();
  driver.write({0, 1});
  driver.write({0}, true);
  driver.commit();
}

void resize(Driver& driver) {
  begin(driver);
  driver.write({0, kPagesPerChunk + 1, 3 * kPagesPerChunk});
  driver.commit();
  driver.resize(2 * kChunkSize);
  driver.write({1});
  driver.resize(8 * kChunkSize);
  driver.write({3 * kPagesPerChunk + 1});
  driver.commit();
  driver.resize(kChunkSize);
  driver.resize(2 * kGiB);
  driver.write({kPagesPerSegment});
  driver.commit();
}

// Clean and unclean ends of the process, and what recovery and the next writer do.
void reopen(Driver& driver) {
  begin(driver);
  driver.write({0});
  driver.close();
  driver.open();
  driver.write({1, kPagesPerSegment});
  driver.commit();
  driver.kill();
  driver.open();
  driver.write({2});
  driver.kill();
  driver.open();
  driver.write({0, 3});
  driver.reclaim();
  driver.commit();
  driver.close();
}

// Processes that are killed in the middle of an operation: what they stored is there, but nobody
// flushed it.
void killed(Driver& driver) {
  begin(driver);
  driver.write({0, kPagesPerChunk});
  driver.commit();
  constexpr size_t kEventsMax = 6;
  for (size_t events = 0; events <= kEventsMax; ++events) {
    driver.kill_during([&] { driver.write({0, 8 + events, kPagesPerChunk}); }, events);
    driver.open();
    driver.write({2});
    driver.kill_during([&] { driver.commit(); }, events);
    driver.open();
    driver.kill_during([&] { driver.resize((3 + events % 2) * kChunkSize); }, events);
    driver.kill_during([&] { driver.open(); }, events);
    driver.open();
    driver.write({1});
    driver.kill_during([&] { driver.close(); }, events);
    driver.open();
  }
}

// A log that fills up is emptied while it is in use.
void full_log(Driver& driver) {
  begin(driver);
  std::vector<uint64_t> one_each;
  one_each.reserve(kChunksPerSegment);
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    one_each.push_back(chunk * kPagesPerChunk);
  }
  // Every chunk's entry and map, there and back again: 90 KiB of log a round. The log is emptied
  // when it is half full.
  constexpr int kRounds = 23;
  for (int round = 0; round < kRounds; ++round) {
    driver.write(one_each);
    driver.resize(kChunkSize);
    driver.resize(kGiB);
  }
  driver.commit();
  driver.start();
  for (int round = 0; round < 2; ++round) {
    driver.resize(kChunkSize);
    driver.write({0});
    driver.resize(kGiB);
    driver.write({kPagesPerChunk, 5 * kPagesPerChunk});
    driver.commit();
  }
}

// First writes over a snapshot, in place and zero, and the next snapshot.
void snapshot(Driver& driver) {
  begin(driver);
  driver.write({0, 1, kPagesPerChunk});
  driver.create_snapshot("a");
  driver.write({0, 2});
  driver.write({0});
  driver.write({1}, true);
  driver.commit();
  driver.create_snapshot("b");
  driver.write({0, 1});
  driver.commit();
}

// Deletes what is alone, what is shared, and what moves: up, then down.
void delete_snapshots(Driver& driver) {
  begin(driver);
  constexpr uint64_t kOtherChunk = 9 * kPagesPerChunk;
  driver.write({0, 1, 2, 3, kOtherChunk});
  driver.create_snapshot("a");
  driver.write({0, kOtherChunk});
  driver.create_snapshot("b");
  driver.write({1});
  driver.create_snapshot("c");
  driver.write({0, 2});
  driver.commit();
  driver.start();
  driver.delete_snapshot("a");  // b's page moves to a's windows
  driver.delete_snapshot("c");  // c's page to those of the active layer
  driver.write({3, kPagesPerSegment});
  driver.delete_snapshot("b");
  driver.write({2 * kPagesPerChunk});
  driver.commit();
}

// Back, on to a branch, and forth; then one branch after the other goes.
void apply(Driver& driver) {
  begin(driver);
  driver.write({0, 1});
  driver.create_snapshot("a");
  driver.write({0, kPagesPerSegment});
  driver.create_snapshot("b");
  driver.write({1});
  driver.start();
  driver.apply_snapshot("a");
  driver.write({2});
  driver.create_snapshot("c");
  driver.apply_snapshot("b");
  driver.write({0});
  driver.commit();
  driver.delete_snapshot("a");
  driver.delete_snapshot("b");
  driver.delete_snapshot("c");
}

// The size changes over what snapshots hold.
void resize_over_snapshots(Driver& driver) {
  begin(driver);
  driver.write({0, kPagesPerChunk, kPagesPerSegment});
  driver.create_snapshot("a");
  driver.resize(kChunkSize);
  driver.resize(2 * kGiB);
  driver.write({kPagesPerChunk + 1});
  driver.create_snapshot("b");
  driver.resize(kChunkSize);
  driver.delete_snapshot("a");
  driver.apply_snapshot("b");
  driver.resize(kGiB);
  driver.delete_snapshot("b");
  driver.commit();
}

// Chunks that several layers have written to are copied together.
void fold(Driver& driver) {
  begin(driver);
  driver.write({0, 1, kPagesPerChunk, 2 * kPagesPerChunk});
  driver.create_snapshot("a");
  driver.write({1, 2, kPagesPerChunk});
  driver.write({0}, true);
  driver.commit();
  driver.start();
  driver.fold(0, 3);
  driver.write({0, 1, 2 * kPagesPerChunk});
  driver.commit();
  driver.create_snapshot("b");
  driver.write({2});
  driver.fold(0, 1);
  driver.delete_snapshot("a");
  driver.commit();
}

// Processes that are killed while they change snapshots.
void killed_snapshots(Driver& driver) {
  begin(driver);
  driver.write({0, 1, 2});
  driver.create_snapshot("a");
  driver.write({0});
  driver.create_snapshot("b");
  driver.write({1, 2});
  constexpr size_t kEvents[] = {3, 14};
  for (const size_t events : kEvents) {
    const std::string name = "c" + std::to_string(events);
    driver.kill_during([&] { driver.create_snapshot(name); }, events % 8);
    driver.open();
    driver.write({1, 8 + events});
    driver.kill_during([&] { driver.apply_snapshot("b"); }, events);
    driver.kill_during([&] { driver.open(); }, events);
    driver.open();
    driver.write({0, 2});
    driver.kill_during([&] { driver.delete_snapshot(driver.oracle().snapshots().back()); }, events);
    driver.kill_during([&] { driver.open(); }, 2 * events);
    driver.open();
    if (driver.oracle().snapshots().size() < 2) driver.create_snapshot("b");
  }
}

// First writes over a base, zeros, a snapshot, a smaller size.
void base(Driver& driver) {
  begin(driver);
  driver.write({0, 3});
  driver.write({1}, true);
  driver.commit();
  driver.write({0, kPagesPerSegment});
  driver.create_snapshot("a");
  driver.write({2});
  driver.resize(kChunkSize);
  driver.apply_snapshot("a");
  driver.write({2, 3});
  driver.commit();
  driver.close();
}

// Another base, twice, and none: the content stays.
void rebase(Driver& driver) {
  begin(driver);
  driver.write({0, 3});
  driver.write({1}, true);
  driver.rebase({0, 1, 4, kPagesPerSegment + 1});
  driver.write({4, 5});
  driver.rebase({5});
  driver.close();
  driver.open();
  driver.write({kPagesPerSegment});
  driver.rebase({});
  driver.write({2});
  driver.commit();
  driver.close();
}

// All that changes which files are written to, and the sessions that go with opening and closing.
void stripe(Driver& driver) {
  driver.create();
  driver.open();
  driver.write({0, kPagesPerChunk, kPagesPerChunk + 1});
  driver.commit();
  driver.close();
  driver.open();
  driver.log_new({0, 1, kPagesPerChunk});
  driver.commit();
  driver.log_lines(kPagesPerChunk + 1, 0x5);
  driver.commit();
  driver.checkpoint(1);
  driver.log_new({1, 3 * kPagesPerChunk});
  driver.commit();
  driver.kill();
  driver.open();
  driver.write({kPagesPerSegment + kPagesPerChunk});
  driver.create_snapshot("a");
  driver.write({0, kPagesPerChunk});
  driver.delete_snapshot("a");
  driver.resize(kChunkSize);
  driver.resize(kGiB);
  driver.write({kPagesPerChunk});
  driver.commit();
  driver.kill_during([&] { driver.close(); }, 3);
  driver.kill_during([&] { driver.open(); }, 4);
  driver.open();
  driver.write({1});
  driver.close();
}

uint64_t pick(Random& random, uint64_t bound) { return random() % bound; }

}  // namespace

void begin(Driver& driver) {
  driver.create();
  driver.open();
  driver.start();
}

uint64_t pick_page(const Oracle& oracle, Random& random) {
  const std::vector<uint64_t> owned = oracle.owned_pages();
  if (!owned.empty() && pick(random, 3) == 0) return owned[pick(random, owned.size())];
  const uint64_t pages = oracle.size() / pcow::kPageSize;
  const uint64_t anchor = pick(random, 3) * kPagesPerSegment + pick(random, 3) * kPagesPerChunk;
  return std::min(anchor + pick(random, 4), pages - 1);
}

namespace {

void random_write(Driver& driver, Random& random) {
  std::vector<uint64_t> pages;
  for (uint64_t n = 1 + pick(random, 4); n > 0; --n) {
    pages.push_back(pick_page(driver.oracle(), random));
  }
  const bool zero = pick(random, 5) == 0;
  if (zero) {
    // Of other pages the oracle does not know whether they hide something of a snapshot.
    const std::vector<uint64_t> owned = driver.oracle().owned_pages();
    std::erase_if(pages, [&](uint64_t page) { return !std::ranges::binary_search(owned, page); });
    if (pages.empty()) return;
  }
  driver.write(pages, zero);
}

void random_discard(Driver& driver, Random& random) {
  const uint64_t pages = driver.oracle().size() / pcow::kPageSize;
  uint64_t first = pick_page(driver.oracle(), random);
  uint64_t count = 1 + pick(random, 4);
  if (pick(random, 4) == 0) first = first / kPagesPerChunk * kPagesPerChunk;
  if (pick(random, 4) == 0) count += kPagesPerChunk;
  if (pick(random, 16) == 0) count += kPagesPerSegment;
  driver.discard(first, std::min(count, pages - first));
}

void random_snapshot_operation(Driver& driver, Random& random) {
  constexpr size_t kSnapshotsMax = 3;
  if (driver.is_deleting() && pick(random, 2) == 0) {
    driver.continue_deletion(1 + pick(random, 8), pick(random, 2) == 0);
    return;
  }
  const std::vector<std::string> there = driver.oracle().snapshots();
  const uint64_t what = pick(random, 4);
  if (there.empty() || (what < 2 && there.size() < kSnapshotsMax)) {
    std::string name = "s";
    while (std::ranges::find(there, name) != there.end()) name += "s";
    return driver.create_snapshot(name);
  }
  const std::string& name = there[pick(random, there.size())];
  if (pick(random, 2) == 0 && !driver.is_deleting()) return driver.begin_deletion(name);
  return what == 3 ? driver.apply_snapshot(name) : driver.delete_snapshot(name);
}

const std::vector<Script>& engine_scripts() {
  static const std::vector<Script> kScripts = {
      {"create", "a new image, its first page, its first epoch", kGiB, create},
      {"allocate", "first pages of a GiB, of a chunk, of a page", 2 * kGiB, allocate},
      {"commit", "epochs over pages that exist", kGiB, commit},
      {"resize", "shrink, grow, and write where data was", 4 * kChunkSize, resize},
      {"reopen", "close, kill, open, reclaim", 2 * kGiB, reopen},
      {"killed", "processes killed in the middle of an operation", 8 * kChunkSize, killed},
      {"full-log", "the log fills up and is emptied", kGiB, full_log},
      {"snapshot", "snapshots, and first writes over them", 2 * kGiB, snapshot},
      {"delete", "snapshots are deleted, pages move", 2 * kGiB, delete_snapshots},
      {"apply", "back to snapshots, branches", 2 * kGiB, apply},
      {"layers-resize", "the size changes over what snapshots hold", 2 * kGiB,
       resize_over_snapshots},
      {"fold", "chunks that layers share are copied together", 2 * kGiB, fold},
      {"layers-killed", "processes killed while they change snapshots", 2 * kGiB, killed_snapshots},
      {"base", "first writes over a base image", 2 * kGiB, base, {0, 1, 2, kPagesPerSegment}},
      {"rebase", "other bases, and none", 2 * kGiB, rebase, {0, 1, 2, kPagesPerSegment}},
      {"stripe", "an image in two files", 2 * kGiB, stripe, {}, true},
  };
  return kScripts;
}

}  // namespace

const std::vector<Script>& scripts() {
  static const std::vector<Script> kScripts = [] {
    std::vector<Script> all = engine_scripts();
    std::ranges::copy(upkeep_scripts(), std::back_inserter(all));
    std::ranges::copy(epoch_scripts(), std::back_inserter(all));
    return all;
  }();
  return kScripts;
}

void random_operations(Driver& driver, Random& random, size_t count) {
  if (!driver.is_open()) driver.open();
  for (size_t n = 0; n < count; ++n) {
    if (pick(random, 3) == 0) {
      random_epoch_operation(driver, random);
      continue;
    }
    switch (pick(random, 22)) {
      case 0:
        driver.close();
        driver.open();
        break;
      case 1:
        driver.kill();
        driver.open();
        break;
      case 10: {
        const uint64_t what = pick(random, 10);
        const auto operation = [&] {
          if (what > 8) return random_discard(driver, random);
          if (what > 6) return random_epoch_operation(driver, random);
          if (what > 4) return random_snapshot_operation(driver, random);
          if (what == 0) return driver.commit();
          if (what == 1) return driver.close();
          if (what == 2) return driver.resize((1 + pick(random, 8)) * kChunkSize);
          random_write(driver, random);
        };
        driver.kill_during(operation, pick(random, 12));
        if (pick(random, 3) == 0) driver.kill_during([&] { driver.open(); }, pick(random, 12));
        driver.open();
        break;
      }
      case 2:
        driver.reclaim();
        driver.fold(0, std::min<uint64_t>(3, driver.oracle().size() / kChunkSize));
        break;
      case 16:
      case 17:
      case 18:
        random_snapshot_operation(driver, random);
        break;
      case 20:
      case 21:
        random_discard(driver, random);
        break;
      case 3:
      case 4: {
        const uint64_t gib = pick(random, 4) * kGiB;
        driver.resize(gib + (1 + pick(random, 4)) * kChunkSize);
        break;
      }
      case 5:
      case 6:
      case 7:
      case 8:
        driver.commit();
        break;
      default:
        random_write(driver, random);
        break;
    }
  }
}

}  // namespace crash
