// SPDX-License-Identifier: BSD-3-Clause
//
// CRC-32C (RFC 3720, appendix B.4), the checksum of every structure in an image; computed by ISA-L.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace pcow {

// Checksum of `data`; pass the result of a previous call as `previous` to go on.
uint32_t crc32c(std::span<const std::byte> data, uint32_t previous = 0);

}  // namespace pcow
