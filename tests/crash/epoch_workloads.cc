// SPDX-License-Identifier: BSD-3-Clause
//
// Workloads of epochs: pages that go through the log.
#include <algorithm>

#include "tests/crash/workloads.h"

namespace crash {
namespace {

using pcow::kChunkSize;
using pcow::kGiB;
using pcow::kPagesPerChunk;
using pcow::kPagesPerSegment;

constexpr uint64_t kAll = UINT64_MAX;

// First pages, pages again, a page twice in an epoch, and checkpoints in between.
void epoch(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1});
  driver.commit();
  driver.log_lines(0, 0b1000);
  driver.log_lines(0, 0b0011);
  driver.log_new({2, kPagesPerChunk});
  driver.commit();
  driver.checkpoint(1);
  driver.log_new({0});
  driver.checkpoint(2);
  driver.log_lines(1, 1);
  driver.checkpoint(kAll);
  driver.commit();
  driver.log_lines(2, uint64_t{1} << 63);
  driver.checkpoint(kAll);
  driver.checkpoint(kAll);
  driver.commit();
  driver.log_new({1});
  driver.kill();
  driver.open();
  driver.log_lines(0, 0b110);
  driver.commit();
  driver.log_new({3});
  driver.close();
}

// Lines that change and go back, with and without a checkpoint in between.
void epoch_lines(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1});
  driver.commit();
  driver.checkpoint(kAll);
  driver.start();
  const Version old = driver.oracle().content(0).value();
  const Version changed = mix_lines(old, driver.new_version(), 0xff00ff);
  driver.log({{0, changed}});
  driver.commit();
  driver.log({{0, old}});
  driver.commit();
  driver.log({{0, changed}});
  driver.log({{0, mix_lines(old, changed, 0xff)}});
  driver.commit();
  driver.checkpoint(kAll);
  driver.log({{0, changed}});
  driver.log({{0, old}});
  driver.commit();
  driver.log({{0, changed}});
  driver.checkpoint(kAll);
  driver.log({{0, old}});
  driver.commit();
}

// Pages that become zero, and data again, before and after they are holes.
void epoch_zero(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1, 2});
  driver.log({{1, 0}, {5, 0}});
  driver.commit();
  driver.checkpoint(kAll);
  driver.log({{0, 0}, {2, 0}});
  driver.commit();
  driver.log_lines(0, 0b10);
  driver.checkpoint(kAll);
  driver.commit();
  driver.log({{0, 0}});
  driver.commit();
  driver.checkpoint(kAll);
  driver.log_new({0, 2});
  driver.commit();
  // Runs of them, in windows side by side, over data that is in the log and over what is zero.
  driver.log_new({1, 3, 4, kPagesPerChunk, kPagesPerChunk + 1});
  driver.commit();
  driver.log_lines(3, 0b100);
  driver.log({{1, 0}, {2, 0}, {3, 0}, {kPagesPerChunk, 0}, {kPagesPerChunk + 1, 0}});
  driver.log_lines(2, 0b1);
  driver.commit();
  driver.log_lines(3, uint64_t{1} << 63);
  driver.checkpoint(2);
  driver.commit();
  driver.log({{2, 0}, {3, 0}});
  driver.kill();
  driver.open();
  driver.log_new({kPagesPerChunk});
  driver.commit();
}

// Epochs that fill the log, over and over: the ring's end, and checkpoints for want of room.
void epoch_full(Driver& driver) {
  begin(driver);
  constexpr uint64_t kPages = 330;  // three of these fill the log
  std::vector<uint64_t> pages(kPages);
  for (uint64_t page = 0; page < kPages; ++page) pages[page] = page;
  constexpr int kRounds = 7;
  for (int round = 0; round < kRounds; ++round) {
    driver.log_new(pages);
    driver.commit();
    if (round % 3 == 1) driver.checkpoint(200);
  }
  driver.start();
  pages.resize(kPages / 2);  // six of these fill the log
  constexpr int kMoreRounds = 7;
  for (int round = 0; round < kMoreRounds; ++round) {
    driver.log_new(pages);
    driver.log_lines(1, 0b11);
    if (round == 1) driver.checkpoint(100);
    driver.commit();
  }
}

// Epochs that are dropped, with pages that nobody owned, and begin again, also in a larger log.
void epoch_restart(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1, kPagesPerChunk});
  driver.commit();
  driver.log_lines(0, 0b101);
  driver.log_new({2, kPagesPerChunk + 1, kPagesPerSegment});
  driver.restart_epoch();
  driver.log_lines(0, 0b11);
  driver.log_new({2, kPagesPerSegment + 1});
  driver.commit();
  driver.log_new({1, 3});
  driver.checkpoint(1);
  driver.restart_epoch(2 * kLogSize);
  driver.log_new({1, 3});
  driver.kill_during([&] { driver.commit(); }, 4);
  driver.open();
  driver.log_new({0, 4});
  driver.kill_during([&] { driver.restart_epoch(3 * kLogSize); }, 5);
  driver.open();
  driver.log_lines(0, 0b1);
  driver.commit();
  driver.close();
}

// A log that grows out of the first segment, and goes on in its own.
void epoch_log_moves(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1});
  driver.commit();
  driver.log_lines(0, 0b101);
  driver.log_new({2, kPagesPerSegment});
  constexpr uint64_t kBeyond = pcow::kSegmentSize;
  driver.kill_during([&] { driver.restart_epoch(kBeyond); }, 6);
  driver.open();
  driver.restart_epoch(kBeyond);
  driver.log_new({1, 3});
  driver.log_lines(0, 0b11);
  driver.commit();
  driver.checkpoint(1);
  driver.log_new({1, kPagesPerSegment + 1});
  driver.kill_during([&] { driver.commit(); }, 4);
  driver.open();
  driver.restart_epoch(2 * kBeyond);
  driver.log_lines(1, 0b1);
  driver.commit();
  driver.close();
}

// Over snapshots: pages that hide older ones, frozen pages that are still in the log, and moves.
void epoch_snapshots(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1, kPagesPerSegment});
  driver.create_snapshot("a");
  driver.log_lines(0, 0b100);
  driver.log({{1, 0}});
  driver.commit();
  driver.checkpoint(2);
  driver.log_new({1});
  driver.create_snapshot("b");
  driver.log_new({0});
  driver.checkpoint(kAll);
  driver.commit();
  driver.delete_snapshot("a");
  driver.log_new({kPagesPerSegment});
  driver.apply_snapshot("b");
  driver.log_new({2});
  driver.commit();
}

// Pages in place, resizing and reclaiming between epochs.
void epoch_mixed(Driver& driver) {
  begin(driver);
  driver.log_new({0, 1});
  driver.commit();
  driver.write({0, 2});
  driver.log_lines(2, 0b1);
  driver.commit();
  driver.log_new({3 * kPagesPerChunk, 1});
  driver.reclaim();
  driver.commit();
  driver.write({1}, true);
  driver.log_new({0});
  driver.commit();
  driver.resize(2 * kChunkSize);
  driver.resize(4 * kChunkSize);
  driver.log_new({3 * kPagesPerChunk});
  driver.commit();
  driver.close();
}

// Processes that are killed in the middle of an operation.
void epoch_killed(Driver& driver) {
  begin(driver);
  driver.log_new({0, kPagesPerChunk});
  driver.commit();
  constexpr size_t kEventsMax = 6;
  for (size_t events = 0; events <= kEventsMax; ++events) {
    driver.log_new({1});
    driver.kill_during([&] { driver.log_new({0, 8 + events}); }, events % 2);
    driver.open();
    driver.log_new({0, 8 + events});
    driver.kill_during([&] { driver.commit(); }, events);
    driver.kill_during([&] { driver.open(); }, events);
    driver.open();
    driver.log_lines(0, 0b101);
    driver.commit();
    driver.kill_during([&] { driver.checkpoint(kAll); }, events);
    driver.open();
  }
}

// Epochs whose pages, records and metadata lie in both files, with first pages that need no record,
// checkpoints in parts, and processes that are killed.
void stripe_epoch(Driver& driver) {
  begin(driver);
  driver.log_new({0, kPagesPerChunk, 2 * kPagesPerChunk});
  driver.commit();
  driver.log_lines(0, 0b101);
  driver.log_lines(kPagesPerChunk, 0b11);
  driver.log_new({kPagesPerChunk + 1, kPagesPerSegment, kPagesPerSegment + kPagesPerChunk});
  driver.commit();
  driver.checkpoint(1);
  driver.log({{kPagesPerChunk, 0}, {2 * kPagesPerChunk, 0}});
  driver.commit();
  driver.checkpoint(kAll);
  driver.log_new({1, 3 * kPagesPerChunk});
  driver.kill_during([&] { driver.commit(); }, 3);
  driver.kill_during([&] { driver.open(); }, 3);
  driver.open();
  driver.log_new({0, 3 * kPagesPerChunk});
  driver.log_lines(kPagesPerChunk + 1, uint64_t{1} << 63);
  driver.commit();
  driver.close();
}

// Snapshots over both files: pages that move between windows of different files, and segments that
// are given back to both.
void stripe_snapshots(Driver& driver) {
  begin(driver);
  driver.log_new({0, kPagesPerChunk, kPagesPerChunk + 8, kPagesPerSegment});
  driver.create_snapshot("a");
  driver.log_lines(0, 0b100);
  driver.write({kPagesPerChunk, 2 * kPagesPerChunk});
  driver.create_snapshot("b");
  driver.log_new({0, kPagesPerChunk + 1});
  driver.commit();
  driver.delete_snapshot("a");
  driver.log_new({kPagesPerSegment, kPagesPerSegment + kPagesPerChunk});
  driver.commit();
  driver.apply_snapshot("b");
  driver.fold(0, 3);
  driver.kill_during([&] { driver.delete_snapshot("b"); }, 5);
  driver.open();
  driver.write({3 * kPagesPerChunk});
  driver.resize(kChunkSize);
  driver.resize(kGiB);
  driver.write({kPagesPerChunk});
  driver.close();
}

}  // namespace

const std::vector<Script>& epoch_scripts() {
  static const std::vector<Script> kScripts = {
      {"epoch", "epochs through the log, and checkpoints", kGiB, epoch},
      {"epoch-lines", "lines that change and go back", kGiB, epoch_lines},
      {"epoch-zero", "pages that become zero and data again", kGiB, epoch_zero},
      {"epoch-full", "epochs that fill the log over and over", kGiB, epoch_full},
      {"epoch-restart", "epochs that begin again, in a larger log", 2 * kGiB, epoch_restart},
      {"epoch-log-moves", "a log that grows out of the first segment", 2 * kGiB, epoch_log_moves},
      {"epoch-snapshots", "epochs over snapshots", 2 * kGiB, epoch_snapshots},
      {"epoch-mixed", "epochs between pages in place", 4 * kChunkSize, epoch_mixed},
      {"epoch-killed", "processes killed in the middle of an epoch", 8 * kChunkSize, epoch_killed},
      {"stripe-epoch", "epochs of an image in two files", 2 * kGiB, stripe_epoch, {}, true},
      {"stripe-snapshots", "snapshots in two files", 2 * kGiB, stripe_snapshots, {}, true},
  };
  return kScripts;
}

void random_epoch_operation(Driver& driver, Random& random) {
  const auto pick = [&](uint64_t bound) { return random() % bound; };
  const Oracle& oracle = driver.oracle();
  const std::vector<uint64_t> owned = oracle.owned_pages();
  const auto owns = [&](uint64_t page) { return std::ranges::binary_search(owned, page); };
  if (pick(4) == 0) return driver.checkpoint(pick(2) == 0 ? kAll : 1 + pick(3));
  std::map<uint64_t, Version> pages;
  for (uint64_t n = 1 + pick(4); n > 0; --n) {
    const uint64_t page = pick_page(oracle, random);
    const Version fresh = driver.new_version();
    const auto there = oracle.content(page);
    const uint64_t what = pick(5);
    if (what == 0) {
      pages[page] = 0;
    } else if (what < 3 && there) {
      pages[page] = mix_lines(*there, fresh, random() & random() & random());
    } else if (what == 3 && there) {
      pages[page] = *there;
    } else {
      pages[page] = fresh;
    }
  }
  // Of other pages the oracle does not know whether they hide something of a snapshot.
  std::erase_if(pages, [&](const auto& page) { return page.second == 0 && !owns(page.first); });
  if (!pages.empty()) driver.log(pages);
}

}  // namespace crash
