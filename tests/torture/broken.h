// SPDX-License-Identifier: BSD-3-Clause
//
// Variants with a deliberate mistake, each of which has to be found.
#pragma once

#include <pcow/image.h>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "tiering/dirty_tracker.h"

namespace torture {

enum class Break {
  kNone,
  kNoPin,               // DMA without pins
  kNoResidue,           // the barrier does not collect what is dirty
  kDropWithoutRecheck,  // what was stored to after the plan is dropped as well
  kDropLogged,          // what is in the log is taken for stored at its place
  kRunningBarrier,      // nobody waits at the barrier
  kEarlyAck,            // acknowledged before the commit record is durable
  kDiscardLocally,      // what is discarded is dropped from DRAM, and the image keeps it
};

struct BreakName {
  Break variant;
  const char* name;
  const char* what;
};
const std::vector<BreakName>& break_names();

// Of this process; was_stored_to() of the library, which this program replaces, looks at it.
extern Break active_break;
// Set while the barrier collects.
extern std::atomic<bool> in_barrier;

std::unique_ptr<tiering::DirtyTracker> make_tracker(tiering::Backing backing);

}  // namespace torture
