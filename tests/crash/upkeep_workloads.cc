// SPDX-License-Identifier: BSD-3-Clause
//
// Workloads of what keeps an image in order: repairs, checksums of data, deletions in steps,
// content that is given up.
#include "tests/crash/workloads.h"

namespace crash {
namespace {

using pcow::kGiB;
using pcow::kPagesPerChunk;
using pcow::kPagesPerSegment;

// What `check -r leaks` does; then what it gave back is used.
void repair(Driver& driver) {
  begin(driver);
  driver.write({0, kPagesPerChunk});
  driver.create_snapshot("a");
  driver.write({0, 1});
  driver.commit();
  driver.close();
  driver.leak();
  driver.start();
  driver.repair();
  driver.open();
  driver.write({100 * kPagesPerChunk, kPagesPerSegment});
  driver.commit();
  driver.close();
}

// Checksums of what snapshots keep, and layers that merge either way, or become writable again.
void scrub(Driver& driver) {
  begin(driver);
  driver.write({0, 1, 2, kPagesPerChunk});
  driver.create_snapshot("a");
  driver.write({0, 8, kPagesPerSegment});  // page 8 moves when "b" goes
  driver.create_snapshot("b");
  driver.write({0, 3, 4, 5, 6});
  driver.create_snapshot("c");
  driver.write({1});
  driver.close();
  driver.start();
  driver.add_checksums();
  driver.open();
  driver.write({0, 7});
  driver.delete_snapshot("b");
  driver.close();
  driver.add_checksums();
  driver.open();
  driver.delete_snapshot("a");
  driver.delete_snapshot("c");
  driver.write({0, 2, kPagesPerChunk});
  driver.commit();
  driver.close();
}

// Layers of which one has more pages than the one above it, and less than the one below.
void make_layers(Driver& driver) {
  begin(driver);
  driver.write({0, 1, 2, 3, 9 * kPagesPerChunk});
  driver.create_snapshot("a");
  driver.write({0, 9 * kPagesPerChunk});
  driver.create_snapshot("b");
  driver.write({1, 4, 5, 6});
  driver.create_snapshot("c");
  driver.write({0, 5});
  driver.commit();
  driver.start();
}

// What was given up, in a few steps: each of a part of the segment.
void empty_in_steps(Driver& driver) {
  while (!driver.continue_deletion(3000)) {
  }
}

// What is written between the steps, in place and in epochs, over what moves in them.
void delete_in_steps(Driver& driver) {
  make_layers(driver);
  driver.begin_deletion("a");  // b's pages move to a's windows
  driver.write({0});
  while (!driver.continue_deletion(2, true)) driver.write({1, 9 * kPagesPerChunk});
  empty_in_steps(driver);
  driver.begin_deletion("c");  // those of the active layer to c's, while they change
  for (uint64_t page = 0; !driver.continue_deletion(1, true); ++page) {
    driver.log_new({0, page % 8});
    driver.commit();
    driver.checkpoint(UINT64_MAX);
  }
  driver.write({kPagesPerChunk});
  empty_in_steps(driver);
  driver.write({kPagesPerSegment, 2 * kPagesPerChunk});
  driver.commit();
  driver.begin_deletion("b");
  driver.create_snapshot("d");
  driver.log_new({7});
  while (!driver.continue_deletion(3, true)) driver.log_new({8});
  driver.continue_deletion(UINT64_MAX);
  driver.commit();
}

// Ends of the process between steps and in the middle of them.
void killed_steps(Driver& driver) {
  make_layers(driver);
  driver.begin_deletion("c");
  driver.continue_deletion(2);
  driver.write({0});
  driver.commit();
  driver.kill();
  driver.open();
  driver.begin_deletion("a");
  driver.continue_deletion(2);
  driver.log_new({0, 7});
  driver.commit();
  driver.continue_deletion(1, true);
  driver.close();
  driver.open();
  driver.write({1, 8});
  driver.create_snapshot("d");
  driver.write({1, 2});
  constexpr size_t kEvents[] = {2, 9};
  for (const size_t events : kEvents) {
    driver.begin_deletion(driver.oracle().snapshots().back());
    driver.kill_during([&] { driver.continue_deletion(1); }, events);
    driver.kill_during([&] { driver.open(); }, events);
    driver.open();
    driver.log_new({1});
    driver.commit();
    while (!driver.continue_deletion(4, true)) {
    }
    empty_in_steps(driver);
  }
  driver.close();
}

// Content that is given up: of a page, of a chunk, of a GiB; of what hides something, and what is
// in the log.
void discard(Driver& driver) {
  begin(driver);
  constexpr uint64_t kOther = kPagesPerChunk;
  driver.write({0, 1, 2, kOther, kOther + 1, kPagesPerSegment});
  driver.commit();
  driver.start();
  driver.discard(1, 1);
  driver.discard(kOther, kPagesPerChunk);
  driver.write({1, kOther + 1});
  driver.commit();
  driver.create_snapshot("a");
  driver.write({0});
  driver.discard(0, 2);
  driver.write({1, 2});
  driver.discard(2, kPagesPerChunk);
  driver.commit();
  driver.log_new({0, 3});
  driver.commit();
  driver.log_lines(3, 0b101);
  driver.commit();
  driver.discard(3, 1);
  driver.discard(0, 2 * kPagesPerSegment);
  driver.kill();
  driver.open();
  driver.write({0, kPagesPerSegment + 1});
  driver.delete_snapshot("a");
  driver.discard(0, 2 * kPagesPerSegment);
  driver.discard(0, 2 * kPagesPerSegment);
  driver.write({kOther});
  driver.close();
}

void discard_over_base(Driver& driver) {
  begin(driver);
  driver.write({0, 3});
  driver.commit();
  driver.discard(0, 2);
  driver.discard(3, 1);
  driver.write({1});
  driver.discard(kPagesPerSegment, kPagesPerSegment);
  driver.create_snapshot("a");
  driver.discard(0, kPagesPerChunk);
  driver.close();
}

// Between the steps of deletions, both ways that pages move.
void discard_in_steps(Driver& driver) {
  make_layers(driver);
  driver.begin_deletion("a");
  driver.continue_deletion(2, true);
  driver.write({0, 7});
  driver.discard(0, 2);
  while (!driver.continue_deletion(2, true)) driver.discard(9 * kPagesPerChunk, 1);
  empty_in_steps(driver);
  driver.begin_deletion("c");
  for (uint64_t page = 4; !driver.continue_deletion(1, true); ++page) {
    driver.write({page % 8});
    driver.discard((page + 1) % 8, 1);
  }
  empty_in_steps(driver);
  driver.commit();
}

void discard_killed(Driver& driver) {
  begin(driver);
  driver.write({0, 1, kPagesPerChunk});
  driver.create_snapshot("a");
  constexpr size_t kEventsMax = 9;
  for (size_t events = 0; events <= kEventsMax; ++events) {
    driver.write({1, 8, kPagesPerChunk + events});
    driver.commit();
    driver.kill_during([&] { driver.discard(1, 2 * kPagesPerChunk); }, events);
    driver.open();
  }
  driver.close();
}

}  // namespace

const std::vector<Script>& upkeep_scripts() {
  static const std::vector<Script> kScripts = {
      {"scrub", "checksums of snapshots that merge", 2 * kGiB, scrub},
      {"delete-steps", "snapshots are deleted in steps", 2 * kGiB, delete_in_steps},
      {"steps-killed", "processes killed while they delete in steps", 2 * kGiB, killed_steps},
      {"repair", "leaked space is given back", 2 * kGiB, repair},
      {"discard", "content is given up", 2 * kGiB, discard},
      {"discard-base",
       "content is given up over a base",
       2 * kGiB,
       discard_over_base,
       {0, 1, 2, kPagesPerSegment}},
      {"discard-steps", "content is given up between steps of deletions", 2 * kGiB,
       discard_in_steps},
      {"discard-killed", "processes killed while they give up content", 4 * kGiB, discard_killed},
  };
  return kScripts;
}

}  // namespace crash
