// SPDX-License-Identifier: BSD-3-Clause
//
// What a run of the engine did to its medium, in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "tests/crash/sparse_bytes.h"

namespace crash {

// How the medium makes stores durable.
//   kPmem: byte-addressable. Stores to a cache line land in program order, a store may be torn at
//     8 bytes, lines land in any order, a drain makes flushed lines durable. Changes of the file
//     itself (length, space, holes) are durable after fsync or fdatasync only.
//   kPage: behind the page cache. 512-byte sectors land in any order, whole; fdatasync makes all
//     durable.
// On both the changes of the file itself land in order, as with a journalling file system.
enum class MediumKind { kPmem, kPage };

inline constexpr size_t kPmemUnit = 64;
inline constexpr size_t kPageUnit = 512;
constexpr size_t unit_size(MediumKind kind) {
  return kind == MediumKind::kPmem ? kPmemUnit : kPageUnit;
}

enum class EventKind {
  kStore,    // bytes at offset
  kReserve,  // offset, length
  kPunch,    // offset, length
  kResize,   // offset: where the file begins; length: its new size
  kDrain,    // sfence: what was flushed is durable
  kSync,     // fsync, fdatasync: everything of the file that begins at offset is durable
};

struct Event {
  EventKind kind;
  size_t step = 0;  // of the workload, during which it happened
  uint64_t offset = 0;
  uint64_t length = 0;
  bool flushed = true;  // kStore: the next drain covers it; otherwise the next sync
  std::vector<std::byte> bytes = {};
};

struct Trace {
  SparseBytes base;  // durable content before the first event
  std::vector<Event> events;
};

}  // namespace crash
