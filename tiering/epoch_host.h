// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <functional>

namespace tiering {

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
  // An epoch did not fit in the log, which has this size from now on.
  virtual void log_grown(uint64_t size) = 0;
};

}  // namespace tiering
