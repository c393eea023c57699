// SPDX-License-Identifier: BSD-3-Clause
//
// The guest: threads that store and check, and the place where they wait during a barrier.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "tests/torture/shared_state.h"

namespace torture {

// Loads and stores of a guest: no data race for ThreadSanitizer, as the library reads while the
// guest runs by design.
uint64_t guest_load(const std::byte* address);
void guest_store(std::byte* address, uint64_t value);

// Says what was found, and ends the process.
[[noreturn]] void report_violation(SharedState& shared, Place place, const char* who,
                                   uint64_t expected, uint64_t found);
[[noreturn]] void die(SharedState& shared, const char* what);

class Random;

// Pages from one on: they read as zeros afterwards. Called by the threads.
using Discard = std::function<void(uint64_t page, uint64_t count)>;

class Guest {
 public:
  Guest(std::byte* base, SharedState& shared, uint64_t seed, Discard discard);
  ~Guest();  // ends the threads
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;

  // Between these calls no thread but the device's stores.
  void pause();
  void resume();

 private:
  void mutate(uint64_t owner, uint64_t seed);
  void call(uint64_t seed);
  void wait_while_paused();
  void visit(uint64_t owner, uint64_t page, bool stores);
  void step(Place place, bool stores);
  void discard(uint64_t page, uint64_t count);
  void discard_some(uint64_t owner, Random& random);

  std::byte* base_;
  SharedState& shared_;
  const Discard discard_;
  std::atomic<bool> paused_{false};
  std::atomic<bool> ending_{false};
  std::atomic<uint64_t> waiting_{0};
  std::vector<std::thread> threads_;
};

}  // namespace torture
