// SPDX-License-Identifier: BSD-3-Clause
//
// The address range of a region, and the mappings in it.
#pragma once

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace tiering {

class AddressSpace {
 public:
  // Maps `size` bytes of anonymous memory, private and without reservation, at an address that is
  // a multiple of `alignment`. Errors: kNoMemory.
  static pcow::Result<AddressSpace> map(uint64_t size, uint64_t alignment);

  AddressSpace(AddressSpace&& other) noexcept
      : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  AddressSpace& operator=(AddressSpace&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    return *this;
  }
  AddressSpace(const AddressSpace&) = delete;
  AddressSpace& operator=(const AddressSpace&) = delete;
  ~AddressSpace();

  std::byte* base() const { return base_; }
  uint64_t size() const { return size_; }
  std::byte* at(uint64_t offset) const { return base_ + offset; }
  uint64_t offset_of(const std::byte* address) const {
    return static_cast<uint64_t>(address - base_);
  }

  // Replaces a part by a private mapping of a file. Private copies in it are gone. Errors:
  // kNoMemory and others of mmap(2); the part is then as it was, unless the kernel ran out of
  // memory half way.
  pcow::Result<void> map_file(uint64_t offset, uint64_t length, int fd, uint64_t file_offset);
  // The same by anonymous memory, which is zero.
  pcow::Result<void> map_anonymous(uint64_t offset, uint64_t length);
  // Moves the private copies of a part, which is one mapping, to `to`, and maps there what is
  // mapped here, in place of whatever is mapped there. Here it stays mapped, without copies. On an
  // error nothing has changed here. Errors: kNoMemory, kInvalid (Linux before 5.13).
  pcow::Result<void> move_copies(uint64_t offset, uint64_t length, std::byte* to);

 private:
  AddressSpace(std::byte* base, uint64_t size) : base_(base), size_(size) {}

  std::byte* base_ = nullptr;
  uint64_t size_ = 0;
};

}  // namespace tiering
