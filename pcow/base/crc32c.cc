// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/base/crc32c.h"

#include <isa-l/crc.h>

namespace pcow {

uint32_t crc32c(std::span<const std::byte> data, uint32_t previous) {
  // ISA-L takes a mutable pointer it does not write through, an int length, and leaves the initial
  // and final inversion to the caller.
  uint32_t crc = ~previous;
  while (!data.empty()) {
    const size_t step = data.size() < (size_t{1} << 30) ? data.size() : size_t{1} << 30;
    auto* bytes = reinterpret_cast<unsigned char*>(const_cast<std::byte*>(data.data()));
    crc = crc32_iscsi(bytes, static_cast<int>(step), crc);
    data = data.subspan(step);
  }
  return ~crc;
}

}  // namespace pcow
