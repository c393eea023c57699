// SPDX-License-Identifier: BSD-3-Clause
//
// What the process that is killed and the one that judges it share: which value each place of guest
// memory was given last, and what that was at the last barriers.
//
// A place is 8 bytes, and there are 8 in a page, each stored to by one thread alone:
//
//   page 0                        the number of the barrier, stored while everybody is quiet
//   every 16th page               all places of one mutator, which makes them zero every other
//   time,
//                                 or discards the page
//   the last chunk                the same, of the first mutator, which discards it as a whole
//   other pages, places 0 to 6    one of the mutators or the thread of system calls, in turn
//   other pages, place 7          the device
//
// The value says where it belongs and which store it was: 32 bits of a mixture of the place, then
// the sequence number.
#pragma once

#include <pcow/units.h>
#include <array>
#include <atomic>
#include <cstdint>

namespace torture {

inline constexpr uint64_t kPages = 8192;
inline constexpr uint64_t kRegionSize = kPages * pcow::kPageSize;
inline constexpr uint64_t kPlacesPerPage = 8;
inline constexpr uint64_t kPlaces = kPages * kPlacesPerPage;
inline constexpr uint64_t kMutators = 2;
inline constexpr uint64_t kSyscallOwner = kMutators;
inline constexpr uint64_t kOwners = kMutators + 1;
inline constexpr uint64_t kDeviceOwner = kOwners;
inline constexpr uint64_t kNobody = kOwners + 1;

struct Place {
  uint64_t page;
  uint64_t index;  // in the page

  uint64_t number() const { return page * kPlacesPerPage + index; }
  // Not at the same place of a line in every page.
  uint64_t offset() const {
    return page * pcow::kPageSize + index * (pcow::kPageSize / kPlacesPerPage) + page % 8 * 8;
  }
};

inline constexpr uint64_t kLastChunk = kPages - pcow::kPagesPerChunk;

inline bool is_exclusive(uint64_t page) { return page % 16 == 5 || page >= kLastChunk; }

inline uint64_t owner_of(Place place) {
  if (place.page == 0) return kNobody;
  if (place.page >= kLastChunk) return 0;
  if (is_exclusive(place.page)) return place.page / 16 % kMutators;
  return place.index == kPlacesPerPage - 1 ? kDeviceOwner : (place.page + place.index) % kOwners;
}

inline uint64_t value_of(Place place, uint32_t sequence) {
  if (sequence == 0 || (is_exclusive(place.page) && sequence % 2 == 0)) return 0;
  const uint64_t mixture = (place.number() + 1) * 0x9e3779b97f4a7c15U;
  return (mixture & 0xffffffff00000000U) | sequence;
}

inline constexpr uint64_t kCuts = 16;

// In Cut::device_begun: as far as it came before the process died.
inline constexpr uint32_t kDeviceGoesOn = ~uint32_t{0};

// What memory held at a barrier.
struct Cut {
  uint64_t ordinal;
  std::array<uint32_t, kPlaces> sequence;
  // The device does not stop at a barrier: its places are exact where both are equal.
  std::array<uint32_t, kPages> device_done;
  std::array<uint32_t, kPages> device_begun;
};

struct Counters {
  std::atomic<uint64_t> stores, checks, syscalls, device_stores, device_pins;
  std::atomic<uint64_t> epochs, rounds, precopied, residue, pinned, demoted, kept, logged_bytes;
  std::atomic<uint64_t> checkpointed, queries, flushes, pause_p50_ns, pause_p99_ns, pause_max_ns;
  std::atomic<uint64_t> early, holds, restarts, promoted, unmapped, huge;
  std::atomic<uint64_t> discards, chunk_discards, snapshots, deletions, folded;
};

struct SharedState {
  std::array<uint32_t, kPlaces> live;  // sequence numbers, each written by the place's owner
  std::array<std::atomic<uint32_t>, kPages> device_begun;
  std::array<std::atomic<uint32_t>, kPages> device_done;
  // Of the barrier with number n: n % kCuts. A moment in which the guest is held has a number as
  // well, and several may come between two epochs.
  std::array<Cut, kCuts> cuts;
  std::atomic<uint64_t> area;          // where all threads store now; the rest cools
  std::atomic<uint64_t> acknowledged;  // the last barrier that was said to be durable
  std::atomic<uint64_t> barriers;      // the last that was begun
  std::atomic<bool> quit;              // end without being killed
  std::atomic<bool> violated;
  std::array<char, 500> message;  // what was found
  Counters counters;
};

inline constexpr uint64_t kAreaPages = 2048;

inline uint64_t page_in_area(const SharedState& shared, uint64_t page) {
  return 1 + (shared.area.load(std::memory_order_relaxed) + page) % (kPages - 1);
}

}  // namespace torture
