// SPDX-License-Identifier: BSD-3-Clause
//
// A device that does DMA: io_uring into registered buffers, which the kernel pins, so that what it
// stores there goes to the page itself and no page table entry notices. It does not stop at
// barriers.
#pragma once

#include <liburing.h>
#include <tiering/region.h>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "tests/torture/shared_state.h"

namespace torture {

class Device {
 public:
  Device(tiering::Region& region, SharedState& shared, uint64_t seed);
  ~Device();  // ends after what is in flight
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

 private:
  void run();
  void transfer_to(const std::vector<uint64_t>& pages);
  void store(const std::vector<uint64_t>& pages);
  void pin(const std::vector<uint64_t>& pages, bool wanted);

  tiering::Region& region_;
  SharedState& shared_;
  std::mt19937_64 random_;
  int source_ = -1;
  io_uring ring_{};
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace torture
