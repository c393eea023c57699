// SPDX-License-Identifier: BSD-3-Clause
//
// Pages of metadata: cached, changed inside transactions, checkpointed after their log record.
//
//   clean --modify/create--> changed --seal_changes--> (log) --checkpoint--> clean
//                               \------------abort-----------------------> as before
//
// A transaction may be made of steps, each of which can be taken back without those before it:
// begin_step(), changes, then keep_step() or undo_step().
//
// Invariant: a page is stored at its place only by checkpoint(), after the log holds the
// transaction.
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "pcow/engine/log_scan.h"
#include "pcow/engine/redo_log.h"
#include "pcow/format/block.h"
#include "pcow/media/media.h"

namespace pcow {

class MetadataStore {
 public:
  MetadataStore(Media& media, const format::Uuid& uuid) : media_(&media), uuid_(uuid) {}

  // Content of a log that is not (yet) replayed into the file: reads see it.
  void set_overlay(LogContent log) { overlay_ = std::move(log); }
  const LogContent& overlay() const { return overlay_; }
  void clear_overlay() { overlay_ = {}; }

  // `fn` is called when a block, or what a page holds, turns out to be damaged: once at most.
  void on_damage(std::function<void()> fn) { on_damage_ = std::move(fn); }
  void report_damage() const {
    if (on_damage_) std::exchange(on_damage_, nullptr)();
  }

  // A block, verified when it is read from the file. The pointer is valid until the next call, or
  // inside a transaction (something is changed) until its end. Errors: kCorrupt (names block and
  // offset), kIo.
  Result<const format::Block*> block(uint64_t offset, format::BlockType type);
  // A page without a header of its own (entries and page maps of a chunk table).
  Result<const format::Block*> raw_page(uint64_t offset);
  // Copies pages without caching them; unverified.
  Result<void> peek(uint64_t offset, std::span<std::byte> out) const;
  // Reads bytes of any kind and alignment as the medium will hold them once the log is replayed.
  Result<void> read_replayed(uint64_t offset, std::span<std::byte> out) const;

  // The same for changing, inside the transaction. A block is sealed by seal_changes().
  Result<format::Block*> modify_block(uint64_t offset, format::BlockType type);
  Result<format::Block*> modify_raw_page(uint64_t offset);
  // A page at a place that is a hole. Blocks get their header.
  format::Block* create_block(uint64_t offset, format::BlockType type, uint64_t owner);
  format::Block* create_raw_page(uint64_t offset);
  // A page that is to be all zero again.
  Result<void> erase_page(uint64_t offset);
  // What is cached of [offset, offset + length) is dropped: it was, or will be, changed on the
  // medium without the store. REQUIRES: nothing of it is changed in a transaction.
  void forget(uint64_t offset, uint64_t length);

  bool changed() const { return !changed_.empty(); }
  // Seals the changed blocks and lists what changed. The list is valid until checkpoint() or
  // abort().
  std::vector<RedoLog::Change> seal_changes();
  // Backs the places of the changed pages with file space. Errors: kNoSpace, kIo.
  Result<void> reserve_places();
  // Stores the changes, which the log holds by now, at their places. On failure the places are
  // undefined until the log is replayed, and the transaction is still there: what is cached, and
  // stays so, is what it makes of them, or after abort() what they were.
  Result<void> checkpoint(std::span<const RedoLog::Change> changes);
  void abort();

  // REQUIRES: no step has begun; ended before checkpoint() or abort().
  void begin_step();
  void keep_step();
  void undo_step();
  // Backs the places of the pages that the step changed first with file space.
  Result<void> reserve_step_places();
  // Bytes of log that the changes take at most, also when every changed block is sealed again.
  uint64_t changes_bound() const;

 private:
  enum class Kind { kBlock, kRaw };
  struct Page {
    format::Block content;
    std::unique_ptr<format::Block> before;  // set while changed
    Kind kind = Kind::kRaw;
    bool created = false;
  };

  // What a page was when the step first changed it.
  struct Undo {
    uint64_t offset;
    std::unique_ptr<Page> page;  // none: it was not cached
    bool changed;                // by the transaction already
  };

  Result<Page*> load(uint64_t offset, Kind kind, format::BlockType type);
  format::Block* create(uint64_t offset, Kind kind);
  void mark_changed(uint64_t offset, Page& page);
  static bool needs_space(const Page& page);
  void note_for_undo(uint64_t offset);
  void evict();

  Media* media_;
  format::Uuid uuid_;
  mutable std::function<void()> on_damage_;
  LogContent overlay_;
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages_;
  std::vector<uint64_t> changed_;
  bool places_defined_ = true;
  bool in_step_ = false;
  size_t changed_before_step_ = 0;
  std::vector<Undo> undo_;
  std::unordered_set<uint64_t> noted_;  // the places in undo_
};

// Stores lines of one page at their place, adjacent lines in one write.
Result<void> store_lines(Media& media, StoreCause cause, uint64_t target, uint64_t mask,
                         const format::Block& content);

}  // namespace pcow
