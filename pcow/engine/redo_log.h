// SPDX-License-Identifier: BSD-3-Clause
//
// Writing the log: a ring of redo records (FORMAT.md, section 10; reading it: log_scan.h).
//
// Invariants
//  1. The records of a transaction and its commit record are durable before append() returns, and
//     nothing of the transaction is stored at its targets before that.
//  2. The LSN never goes back within a generation: a transaction that failed half-way is left
//     behind, never overwritten, so its records cannot be taken for part of a later one.
//  3. [tail, head) never exceeds the ring: append() refuses instead of overwriting.
//
// Crash argument: a crash inside append() leaves either no valid commit record (the transaction
// never happened) or, because a commit record may become durable before the lines in front of it, a
// commit record behind a damaged line; scan_log() stops at the damage, so again the transaction
// never happened. A crash after append() replays it; replaying twice stores the same bytes twice.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <cstdint>
#include <span>
#include <vector>

#include "pcow/engine/log_record.h"
#include "pcow/format/block.h"
#include "pcow/media/media.h"

namespace pcow {

class RedoLog {
 public:
  RedoLog(Media& media, const LogPosition& position)
      : media_(&media), ring_(position), head_(position.tail) {}

  struct Change {
    uint64_t target;  // image offset of a page
    uint64_t mask;    // lines that changed
    const format::Block* content;
  };

  // Bytes of log a transaction of these changes takes at most.
  static uint64_t size_bound(std::span<const Change> changes);
  uint64_t free_bytes() const { return ring_.size - (head_ - ring_.tail); }
  uint64_t used_bytes() const { return head_ - ring_.tail; }

  // Backs the place of the next `bytes` with file space. Errors: kNoSpace, kIo.
  Result<void> reserve(uint64_t bytes);
  // Appends and makes durable one transaction. REQUIRES: size_bound(changes) <= free_bytes(),
  // reserved.
  Result<void> append(std::span<const Change> changes, Epoch epoch);

  // The log position after everything in it has been checkpointed: empty, and back at the start of
  // the ring, so that a log that is never full takes little file space.
  LogPosition emptied(uint64_t generation) const;
  void reset(const LogPosition& position);
  const LogPosition& position() const { return ring_; }

 private:
  std::vector<std::byte> encode(std::span<const Change> changes, Epoch epoch) const;

  Media* media_;
  LogPosition ring_;
  uint64_t head_;  // LSN of the next record
};

}  // namespace pcow
