// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/address_space.h"

#include <sys/mman.h>

#include <pcow/image.h>
#include <pcow/units.h>
#include <cerrno>

namespace tiering {

pcow::Result<AddressSpace> AddressSpace::map(uint64_t size, uint64_t alignment) {
  const auto fail = [&] {
    return pcow::errno_error(
        errno, "cannot reserve " + pcow::format_size(size) + " of address space for the region");
  };
  // Reserves too much, maps the aligned part and gives the rest back.
  const uint64_t reserved = size + alignment;
  void* area =
      mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return fail();
  auto* start = static_cast<std::byte*>(area);
  const uint64_t skip = pcow::round_up(reinterpret_cast<uintptr_t>(start), alignment) -
                        reinterpret_cast<uintptr_t>(start);
  void* base = mmap(start + skip, size, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (base == MAP_FAILED) {
    const auto error = fail();
    munmap(area, reserved);
    return error;
  }
  if (skip > 0) munmap(start, skip);
  if (skip < alignment) munmap(start + skip + size, alignment - skip);
  return AddressSpace(static_cast<std::byte*>(base), size);
}

AddressSpace::~AddressSpace() {
  if (base_ != nullptr) munmap(base_, size_);
}

pcow::Result<void> AddressSpace::map_file(uint64_t offset, uint64_t length, int fd,
                                          uint64_t file_offset) {
  void* mapped = mmap(at(offset), length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, static_cast<off_t>(file_offset));
  if (mapped != MAP_FAILED) return {};
  return pcow::errno_error(errno, "cannot map " + pcow::format_size(length) + " of the image");
}

pcow::Result<void> AddressSpace::map_anonymous(uint64_t offset, uint64_t length) {
  void* mapped = mmap(at(offset), length, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  if (mapped != MAP_FAILED) return {};
  return pcow::errno_error(errno, "cannot map " + pcow::format_size(length) + " of memory");
}

pcow::Result<void> AddressSpace::move_copies(uint64_t offset, uint64_t length, std::byte* to) {
  constexpr int kFlags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
  if (mremap(at(offset), length, length, kFlags, to) != MAP_FAILED) return {};
  return pcow::errno_error(errno, "cannot move " + pcow::format_size(length) + " of memory");
}

}  // namespace tiering
