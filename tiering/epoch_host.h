// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <chrono>
#include <cstdint>
#include <functional>

namespace tiering {

// An epoch that is durable.
struct EpochReport {
  pcow::Epoch epoch;
  uint64_t residue_pages = 0;         // copied while the guest was quiet
  std::chrono::nanoseconds pause{0};  // for that
  std::chrono::nanoseconds interval{0};
};

// Who runs the guest. Called by threads of the library, without any lock of it.
class EpochHost {
 public:
  virtual ~EpochHost() = default;
  // Calls `body` once, in whatever thread, while nobody stores into the region but by way of what
  // is pinned, and returns afterwards. Or returns false without calling it, when that is not
  // possible now. Never called while a call of it has not returned.
  virtual bool while_quiet(const std::function<void()>& body) = 0;
  // An epoch failed; the image keeps the last one. Unless `ended`, it is tried again: soon, and
  // until it succeeds, where the medium or memory is full.
  virtual void epoch_failed(const pcow::Error& error, bool ended) = 0;
  // An epoch succeeded after others failed.
  virtual void epochs_recovered() = 0;
  // The log has this size from now on: the epoch did not fit in it, and began again `at_barrier`,
  // which took long; or one had to end early.
  virtual void log_grown(uint64_t size, bool at_barrier) = 0;
  // What else who runs the guest may want to know.
  virtual void epoch_made(const EpochReport&) {}
  // The guest was held, because it stored faster than the log takes, and goes on.
  virtual void guest_held(std::chrono::nanoseconds) {}
};

}  // namespace tiering
