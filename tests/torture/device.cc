// SPDX-License-Identifier: BSD-3-Clause
#include "tests/torture/device.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <set>

#include "tests/torture/broken.h"
#include "tests/torture/guest.h"

namespace torture {

namespace {

constexpr size_t kBuffersMax = 8;
constexpr uint64_t kTransfersMax = 12;

Place place_in(uint64_t page) { return {page, kPlacesPerPage - 1}; }

}  // namespace

Device::Device(tiering::Region& region, SharedState& shared, uint64_t seed)
    : region_(region), shared_(shared), random_(seed) {
  source_ = memfd_create("device", MFD_CLOEXEC);
  if (source_ < 0 || ftruncate(source_, pcow::kPageSize) != 0) die(shared_, "cannot make a memfd");
  if (io_uring_queue_init(kBuffersMax, &ring_, 0) != 0) die(shared_, "there is no io_uring");
  thread_ = std::thread([this] { run(); });
}

Device::~Device() {
  ending_ = true;
  thread_.join();
  io_uring_queue_exit(&ring_);
  close(source_);
}

void Device::pin(const std::vector<uint64_t>& pages, bool wanted) {
  if (active_break == Break::kNoPin) return;
  for (const uint64_t page : pages) {
    const uint64_t offset = place_in(page).offset();
    const auto result = wanted ? region_.pin(offset, 8) : region_.unpin(offset, 8);
    if (!result) die(shared_, result.error().message.c_str());
  }
}

void Device::run() {
  while (!ending_) {
    std::set<uint64_t> pages;
    while (pages.size() < kBuffersMax) {
      const uint64_t page = page_in_area(shared_, random_() % kAreaPages);
      if (owner_of(place_in(page)) == kDeviceOwner) pages.insert(page);
    }
    const std::vector<uint64_t> chosen(pages.begin(), pages.end());
    pin(chosen, true);
    transfer_to(chosen);
    pin(chosen, false);
    shared_.counters.device_pins.fetch_add(chosen.size(), std::memory_order_relaxed);
  }
}

// A few transfers into the same buffers, some apart, so that epochs come in between.
void Device::transfer_to(const std::vector<uint64_t>& pages) {
  std::vector<iovec> buffers;
  buffers.reserve(pages.size());
  for (const uint64_t page : pages) {
    buffers.push_back({region_.base() + place_in(page).offset(), 8});
  }
  if (io_uring_register_buffers(&ring_, buffers.data(), kBuffersMax) != 0) {
    die(shared_, "cannot register buffers with io_uring");
  }
  for (uint64_t left = 1 + random_() % kTransfersMax; left > 0 && !ending_; --left) {
    store(pages);
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 1500));
  }
  if (io_uring_unregister_buffers(&ring_) != 0) die(shared_, "cannot unregister buffers");
}

void Device::store(const std::vector<uint64_t>& pages) {
  for (size_t i = 0; i < pages.size(); ++i) {
    const Place place = place_in(pages[i]);
    std::byte* address = region_.base() + place.offset();
    const uint32_t sequence = shared_.device_done.at(place.page);
    const uint64_t expected = value_of(place, sequence);
    const uint64_t found = guest_load(address);
    if (found != expected) report_violation(shared_, place, "a device", expected, found);
    const uint64_t next = value_of(place, sequence + 1);
    if (syscall(SYS_pwrite64, source_, &next, 8, 0) != 8) die(shared_, "cannot write a memfd");
    shared_.device_begun.at(place.page) = sequence + 1;
    io_uring_sqe* request = io_uring_get_sqe(&ring_);
    io_uring_prep_read_fixed(request, source_, address, 8, 0, static_cast<int>(i));
    io_uring_cqe* completion = nullptr;
    if (io_uring_submit(&ring_) != 1 || io_uring_wait_cqe(&ring_, &completion) != 0 ||
        completion->res != 8) {
      die(shared_, "a transfer of io_uring failed");
    }
    io_uring_cqe_seen(&ring_, completion);
    shared_.device_done.at(place.page) = sequence + 1;
    shared_.counters.device_stores.fetch_add(1, std::memory_order_relaxed);
  }
}

}  // namespace torture
