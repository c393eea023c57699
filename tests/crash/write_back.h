// SPDX-License-Identifier: BSD-3-Clause
//
// What of a trace is durable for certain, what may be, and the states in which a crash can leave
// the medium.
//
// The medium is a set of units (cache lines or sectors). Each unit that was stored to since it was
// last made durable has a history: the contents it went through. A crash leaves one of them, for
// each unit independently (a line may be evicted early, or never), on byte-addressable media
// possibly with some of the 8-byte words of the next one. Changes of a file itself (length, space,
// holes) land in order: a crash cuts their list, that of each file by itself, because the files of
// a stripe set lie on file systems of their own.
//
// A punched hole is a content of its units, all zero, that only a sync makes durable. That is more
// pessimistic than a file system, which drops a page as a whole.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/crash/trace.h"

namespace crash {

struct UnitVersion {
  size_t event;  // that made it
  bool by_sync;  // a hole: durable by a sync only
  bool flushed;
  std::vector<std::byte> content;
};
using History = std::vector<UnitVersion>;

// Of each file: the one that begins at 0, and the one at kSecondFile.
using PerFile = std::array<size_t, 2>;
inline size_t file_at(uint64_t offset) { return offset < kSecondFile ? 0 : 1; }

// How a crash leaves the medium: one choice for each thing that is not durable.
struct Choice {
  struct Torn {
    size_t unit;    // index into pending units; the version after the one that landed is torn
    uint8_t words;  // bit w: word w of it has landed
  };
  std::vector<size_t> landed;  // by pending unit: how many versions of its history
  PerFile file_changes{};      // how many of the changes of each file
  std::vector<Torn> torn = {};
};

class WriteBack {
 public:
  WriteBack(SparseBytes durable, MediumKind kind) : durable_(std::move(durable)), kind_(kind) {}

  // `number` identifies the event; numbers ascend.
  void apply(const Event& event, size_t number);

  // Index of a unit in a Choice: its place in here.
  const std::vector<std::pair<uint64_t, History>>& pending_units();
  // What a unit holds after so many versions of its history have landed.
  std::vector<std::byte> landed(size_t unit, size_t versions);
  PerFile pending_file_changes() const { return {changes_[0].size(), changes_[1].size()}; }
  // Event numbers of the pending changes of a file, ascending.
  const std::vector<size_t>& file_change_events(size_t file) const {
    return change_events_.at(file);
  }
  // Which file a pending unit is in.
  size_t file_of(size_t unit) { return file_at(pending_units()[unit].first * unit_size(kind_)); }

  Choice nothing_landed();
  Choice everything_landed();
  SparseBytes state(const Choice& choice);
  std::string describe(const Choice& choice);

  MediumKind kind() const { return kind_; }

 private:
  void store(const Event& event, size_t number);
  void punch(const Event& event, size_t number);
  void add_version(uint64_t unit, UnitVersion version);
  std::vector<std::byte> newest(uint64_t unit) const;
  void drain();
  void sync(size_t file);
  static void change_file(SparseBytes& bytes, const Event& change);

  SparseBytes durable_;
  MediumKind kind_;
  std::map<uint64_t, History> units_;          // by offset / unit size
  std::array<std::vector<Event>, 2> changes_;  // of each file
  std::array<std::vector<size_t>, 2> change_events_;
  std::vector<std::pair<uint64_t, History>> flat_;  // of units_, when flat_valid_
  bool flat_valid_ = false;
};

}  // namespace crash
