// SPDX-License-Identifier: BSD-3-Clause
//
// Writing the log: a ring of redo records (FORMAT.md, section 10; reading it: log_scan.h).
//
//   closed --Writer::lines--> open --append--> closed         append() alone is a transaction, too
//                              └──discard_open──> closed
//
// A transaction is begun by the first record that a Writer adds, and goes on, over any number of
// Writers, until append() adds the last records and the commit record. At most one is open.
//
// Invariants
//  1. The records of a transaction and its commit record are durable before append() returns, and
//     nothing of the transaction is stored at its targets before that; but for pages that nobody
//     owned, in windows that a filling record of it names, durably (image_epoch.cc).
//  2. The LSN never goes back within a generation: a transaction that failed half-way is left
//     behind, never overwritten, so its records cannot be taken for part of a later one.
//  3. [tail, head) never exceeds the ring: what does not fit is refused, never overwritten.
//  4. No record follows one that is not durable, unless it is of the same transaction: what is left
//     behind is flushed, or its generation ended, before another transaction begins.
//
// Crash argument: a crash inside append() leaves either no valid commit record (the transaction
// never happened) or, because a commit record may become durable before the lines in front of it, a
// commit record behind a damaged line; scan_log() stops at the damage, so again the transaction
// never happened. A crash after append() replays it; replaying twice stores the same bytes twice.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <cstdint>
#include <memory>
#include <optional>
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

  // Records on their way into the log: whole pages straight to where they go, if the medium takes
  // them so, else in buffers, each stored when it is full. (Records do not depend on each other but
  // for their place, so several Writers could work side by side; one is bound by memory already.)
  // It does nothing before its first record; what it has not stored when it goes was never there.
  class Writer {
   public:
    // `hold`: nothing is stored before finish().
    Writer(RedoLog& log, Epoch epoch, bool hold);
    struct Added {
      uint64_t lsn;
      bool zero;  // all lines, as they were taken
    };
    // Adds a record of the open transaction, with these lines of a page, which may be changing.
    // Errors: kIo: the log cannot be used any more.
    Result<Added> lines(uint64_t target, uint64_t mask, std::span<const std::byte> page);
    // Adds a record of pages of a window that are all zero. It need not be read back. Errors: kIo.
    Result<void> zeros(uint64_t window, const BitLine& pages);
    // Adds a record that pages which nobody owns may get data, in these windows of a segment.
    Result<void> filling(uint64_t segment, const WindowSet& windows);
    // Bytes of log that the records take so far.
    uint64_t size() const { return next_ - log_->head_ + stored_; }
    bool stored_any() const { return stored_ > 0; }
    Result<void> finish();

   private:
    friend class RedoLog;
    struct Buffer {
      uint64_t lsn = 0;
      size_t size = 0;
      std::unique_ptr<std::byte[]> bytes = {};
    };
    Result<void> add_bits(format::RecordType type, uint64_t target, const BitLine& bits);
    Result<void> commit(uint64_t first, uint64_t count);
    // Room for a record of so many bytes, at next_.
    Result<std::byte*> place_for(uint64_t length);
    Result<void> new_buffer();
    format::LogRecord header_of(format::RecordType type, uint64_t length, uint64_t target,
                                uint64_t mask) const;
    void seal(std::byte* record, format::RecordType type, uint64_t length, uint64_t target,
              uint64_t mask) const;
    Result<Added> whole_page(uint64_t target, std::span<const std::byte> page);
    Result<void> take_up();
    Result<void> store();

    RedoLog* log_;
    Epoch epoch_;
    bool hold_;
    bool direct_;  // whole pages, past the buffers
    size_t buffer_size_;
    uint64_t next_;         // LSN of the next record
    uint64_t stored_ = 0;   // bytes
    uint64_t records_ = 0;  // of lines and zeros, that are not stored
    std::optional<uint64_t> first_;
    std::vector<Buffer> buffers_;
  };

  // Bytes of log a transaction of these changes takes at most.
  static uint64_t size_bound(std::span<const Change> changes);
  uint64_t free_bytes() const { return ring_.size - (head_ - ring_.tail); }
  uint64_t used_bytes() const { return head_ - ring_.tail; }
  bool is_open() const { return open_.has_value(); }
  // LSN behind the last record that is not of the open transaction.
  uint64_t closed_end() const { return open_ ? open_->first : head_; }

  // Backs the place of the next `bytes` with file space. Errors: kNoSpace, kIo.
  Result<void> reserve(uint64_t bytes);
  // Ends the open transaction, or makes one, with these records: durable. REQUIRES:
  // size_bound(changes) <= free_bytes(), reserved. The open one is closed also on failure.
  Result<void> append(std::span<const Change> changes, Epoch epoch);
  // The open transaction never happened. REQUIRES: flush, or reset, before the next (invariant 4).
  void discard_open() { open_.reset(); }

  // Reads a lines record back that this object wrote. Errors: kCorrupt: it is not there any more.
  Result<void> read_record(uint64_t lsn, uint64_t target, uint64_t mask, format::Block& page) const;

  // The log position after everything in it has been checkpointed: empty, and back at the start of
  // the ring, so that a log that is never full takes little file space. An empty log may get
  // another size, and another place.
  LogPosition emptied(uint64_t generation, uint64_t size, uint64_t offset) const;
  void reset(const LogPosition& position);
  // What lies in front of `tail` has been checkpointed. REQUIRES: the superblock says so, durably.
  void set_tail(uint64_t tail) { ring_.tail = tail; }
  const LogPosition& position() const { return ring_; }

 private:
  struct Open {
    uint64_t first;  // LSN of its first record
    uint64_t records;
  };

  Media* media_;
  LogPosition ring_;
  uint64_t head_;  // LSN of the next record
  std::optional<Open> open_;
  uint64_t reserved_ = 0;               // bytes of the ring, from its start, that have file space
  std::unique_ptr<std::byte[]> spare_;  // a buffer for the next Writer
};

}  // namespace pcow
