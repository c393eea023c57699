// SPDX-License-Identifier: BSD-3-Clause
//
// Workloads of what keeps an image in order: repairs, and checksums of data.
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

}  // namespace

const std::vector<Script>& upkeep_scripts() {
  static const std::vector<Script> kScripts = {
      {"scrub", "checksums of snapshots that merge", 2 * kGiB, scrub},
      {"repair", "leaked space is given back", 2 * kGiB, repair},
  };
  return kScripts;
}

}  // namespace crash
