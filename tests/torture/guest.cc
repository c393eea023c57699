// SPDX-License-Identifier: BSD-3-Clause
#include "tests/torture/guest.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <utility>

namespace torture {

// Fast, and not better than it has to be.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15U | 1) {}
  uint64_t below(uint64_t end) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return (state_ >> 11) % end;
  }

 private:
  uint64_t state_;
};

namespace {

constexpr int kStoresOfAVisit = 48;
constexpr uint64_t kHotPages = 512;
constexpr uint64_t kVisitsOfAnArea = 20000;
// Each waits until it gets the region.
constexpr uint64_t kVisitsPerDiscard = 2048;
constexpr uint64_t kDiscardsPerChunkDiscard = 8;

// Threads that never sleep leave the processor to those that make epochs.
void give_way() { setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 10); }

}  // namespace

__attribute__((no_sanitize("thread"))) uint64_t guest_load(const std::byte* address) {
  return *reinterpret_cast<const volatile uint64_t*>(address);
}

__attribute__((no_sanitize("thread"))) void guest_store(std::byte* address, uint64_t value) {
  *reinterpret_cast<volatile uint64_t*>(address) = value;
}

void die(SharedState& shared, const char* what) {
  if (!shared.violated.exchange(true)) {
    std::snprintf(shared.message.data(), shared.message.size(), "%s", what);
  }
  _exit(3);
}

void report_violation(SharedState& shared, Place place, const char* who, uint64_t expected,
                      uint64_t found) {
  std::array<char, 300> text{};
  std::snprintf(text.data(), text.size(),
                "%s: page %llu, place %llu: expected store %llu (%016llx), found %016llx", who,
                static_cast<unsigned long long>(place.page),
                static_cast<unsigned long long>(place.index),
                static_cast<unsigned long long>(expected & 0xffffffffU),
                static_cast<unsigned long long>(expected), static_cast<unsigned long long>(found));
  die(shared, text.data());
}

Guest::Guest(std::byte* base, SharedState& shared, uint64_t seed, Discard discard)
    : base_(base), shared_(shared), discard_(std::move(discard)) {
  for (uint64_t owner = 0; owner < kMutators; ++owner) {
    threads_.emplace_back([this, owner, seed] { mutate(owner, seed + owner); });
  }
  threads_.emplace_back([this, seed] { call(seed + kSyscallOwner); });
}

Guest::~Guest() {
  ending_ = true;
  for (std::thread& thread : threads_) thread.join();
}

void Guest::pause() {
  paused_ = true;
  // Not by yielding: this thread may be one of real time, which yields to no other.
  for (uint64_t there = waiting_; there != threads_.size(); there = waiting_) waiting_.wait(there);
}

void Guest::resume() {
  paused_ = false;
  paused_.notify_all();
}

// Looks again after it was woken, so that a pause that follows at once is not missed.
void Guest::wait_while_paused() {
  while (paused_) {
    ++waiting_;
    waiting_.notify_one();
    paused_.wait(true);
    --waiting_;
  }
}

void Guest::step(Place place, bool stores) {
  uint32_t& sequence = shared_.live.at(place.number());
  std::byte* address = base_ + place.offset();
  const uint64_t expected = value_of(place, sequence);
  const uint64_t found = guest_load(address);
  if (found != expected) report_violation(shared_, place, "a load", expected, found);
  if (!stores) return;
  guest_store(address, value_of(place, sequence + 1));
  ++sequence;
}

void Guest::visit(uint64_t owner, uint64_t page, bool stores) {
  std::array<Place, kPlacesPerPage> places{};
  size_t count = 0;
  for (uint64_t index = 0; index < kPlacesPerPage; ++index) {
    const Place place{page, index};
    if (owner_of(place) == owner) places.at(count++) = place;
  }
  if (count == 0) return;
  // As often each, so that pages that become zero do so as a whole.
  const size_t rounds = is_exclusive(page) ? 1 : kStoresOfAVisit / count;
  for (size_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < count; ++i) step(places.at(i), stores);
  }
  shared_.counters.checks.fetch_add(rounds * count, std::memory_order_relaxed);
  if (stores) shared_.counters.stores.fetch_add(rounds * count, std::memory_order_relaxed);
}

// All places of exclusive pages are zero then: where they were not, that counts as a store.
void Guest::discard(uint64_t page, uint64_t count) {
  discard_(page, count);
  for (uint64_t number = page * kPlacesPerPage; number < (page + count) * kPlacesPerPage;
       ++number) {
    uint32_t& sequence = shared_.live.at(number);
    sequence += sequence % 2;
    step({number / kPlacesPerPage, number % kPlacesPerPage}, false);
  }
}

void Guest::discard_some(uint64_t owner, Random& random) {
  if (owner_of({kLastChunk, 0}) == owner && random.below(kDiscardsPerChunkDiscard) == 0) {
    discard(kLastChunk, pcow::kPagesPerChunk);
    shared_.counters.chunk_discards.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  const uint64_t page = page_in_area(shared_, random.below(kAreaPages)) / 16 * 16 + 5;
  if (owner_of({page, 0}) != owner) return;
  discard(page, 1);
  shared_.counters.discards.fetch_add(1, std::memory_order_relaxed);
}

void Guest::mutate(uint64_t owner, uint64_t seed) {
  Random random(seed);
  give_way();
  uint64_t epoch_of_area = ~uint64_t{0};
  for (uint64_t visits = 0, hot = 0; !ending_; ++visits) {
    wait_while_paused();
    if (visits % (kVisitsOfAnArea / 4) == 0) hot = random.below(kAreaPages - kHotPages);
    // At most once an epoch: where epochs take long, nothing would have the time to cool.
    if (owner == 0 && visits % kVisitsOfAnArea == 0 && shared_.barriers != epoch_of_area) {
      epoch_of_area = shared_.barriers;
      shared_.area = random.below(kPages);
    }
    const bool cold = random.below(32) == 0;
    const uint64_t page = cold ? random.below(kAreaPages) : hot + random.below(kHotPages);
    visit(owner, page_in_area(shared_, page), random.below(4) != 0);
    if (random.below(kVisitsPerDiscard) == 0) discard_some(owner, random);
  }
  // Not counted as running any more.
  ++waiting_;
  waiting_.notify_one();
}

// Stores and loads by way of system calls, which copy from and to a file.
void Guest::call(uint64_t seed) {
  give_way();
  Random random(seed);
  const int file = memfd_create("torture", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, pcow::kPageSize) != 0) die(shared_, "cannot make a memfd");
  while (!ending_) {
    wait_while_paused();
    const Place place{page_in_area(shared_, random.below(kAreaPages)),
                      random.below(kPlacesPerPage)};
    if (owner_of(place) != kSyscallOwner) continue;
    uint32_t& sequence = shared_.live.at(place.number());
    std::byte* address = base_ + place.offset();
    // Not by the functions of libc: ThreadSanitizer would take part.
    uint64_t found = 0;
    const uint64_t next = value_of(place, sequence + 1);
    if (syscall(SYS_pwrite64, file, address, 8, 0) != 8 ||
        syscall(SYS_pread64, file, &found, 8, 0) != 8 ||
        syscall(SYS_pwrite64, file, &next, 8, 0) != 8 ||
        syscall(SYS_pread64, file, address, 8, 0) != 8) {
      die(shared_, "a system call into the region failed");
    }
    const uint64_t expected = value_of(place, sequence);
    if (found != expected) report_violation(shared_, place, "a system call", expected, found);
    ++sequence;
    shared_.counters.syscalls.fetch_add(1, std::memory_order_relaxed);
  }
  close(file);
  ++waiting_;
  waiting_.notify_one();
}

}  // namespace torture
