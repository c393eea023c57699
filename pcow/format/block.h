// SPDX-License-Identifier: BSD-3-Clause
//
// A 4 KiB block of metadata: viewing it as a structure, sealing it (checksum), verifying it.
#pragma once

#include <pcow/status.h>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>

#include "pcow/format/layout.h"

namespace pcow::format {

struct alignas(kLineSize) Block {
  std::array<std::byte, kBlockSize> bytes{};

  template <typename T>
  T& as() {
    static_assert(kIsBlock<T>);
    return *reinterpret_cast<T*>(bytes.data());
  }
  template <typename T>
  const T& as() const {
    static_assert(kIsBlock<T>);
    return *reinterpret_cast<const T*>(bytes.data());
  }
  // By memcmp: a defaulted one goes byte by byte.
  bool operator==(const Block& other) const {
    return std::memcmp(bytes.data(), other.bytes.data(), bytes.size()) == 0;
  }
};

// Fills in the header of a new block; seal() makes it valid.
void init_header(Block& block, BlockType type, uint64_t self, uint64_t owner, const Uuid& uuid);
void seal(Block& block);

// Why `block`, read from image offset `self`, is not a valid block of this type, or empty.
std::string block_defect(const Block& block, BlockType type, uint64_t self, const Uuid& uuid);

// A checksum of data that is good for this chunk of this table, while it has this page map.
DataChecksum seal_data_checksum(uint32_t data_crc, uint64_t table, uint64_t chunk,
                                uint32_t map_crc);

void seal_superblock(Superblock& superblock);
bool superblock_checksum_ok(const Superblock& superblock);

// "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
std::string uuid_text(const Uuid& uuid);
Uuid new_uuid();

}  // namespace pcow::format
