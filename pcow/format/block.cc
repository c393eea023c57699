// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/format/block.h"

#include <uuid/uuid.h>

#include "pcow/base/crc32c.h"

namespace pcow::format {
namespace {

// CRC of `bytes` with the four bytes at `crc_offset` taken as zero.
uint32_t crc_without_field(std::span<const std::byte> bytes, size_t crc_offset) {
  constexpr std::array<std::byte, sizeof(uint32_t)> kZero{};
  uint32_t crc = crc32c(bytes.first(crc_offset));
  crc = crc32c(kZero, crc);
  return crc32c(bytes.subspan(crc_offset + sizeof(uint32_t)), crc);
}

uint32_t block_crc(const Block& block) {
  return crc_without_field(block.bytes, offsetof(BlockHeader, crc));
}

const BlockHeader& header_of(const Block& block) {
  return *reinterpret_cast<const BlockHeader*>(block.bytes.data());
}

BlockHeader& header_of(Block& block) { return *reinterpret_cast<BlockHeader*>(block.bytes.data()); }

uint32_t superblock_crc(const Superblock& superblock) {
  return crc_without_field(std::as_bytes(std::span(&superblock, 1)), offsetof(Superblock, crc));
}

}  // namespace

void init_header(Block& block, BlockType type, uint64_t self, uint64_t owner, const Uuid& uuid) {
  BlockHeader& header = header_of(block);
  header = BlockHeader{};
  header.magic = kBlockMagic;
  header.type = static_cast<uint16_t>(type);
  header.length = static_cast<uint32_t>(kBlockSize);
  header.self = self;
  header.owner = owner;
  header.uuid = uuid;
}

void seal(Block& block) { header_of(block).crc = block_crc(block); }

std::string block_defect(const Block& block, BlockType type, uint64_t self, const Uuid& uuid) {
  const BlockHeader& header = header_of(block);
  if (header.magic != kBlockMagic) return "no block magic";
  if (header.crc != block_crc(block)) return "checksum mismatch";
  if (header.type != static_cast<uint16_t>(type)) return "wrong block type";
  if (header.length != kBlockSize) return "wrong block length";
  if (header.self != self) return "misplaced block";
  if (header.uuid != uuid) return "block of another image";
  return {};
}

DataChecksum seal_data_checksum(uint32_t data_crc, uint64_t table, uint64_t chunk,
                                uint32_t map_crc) {
  struct {
    Le64 table;
    Le32 chunk;
    Le32 map_crc;
    Le32 data_crc;
    Le32 reserved;
  } const sealed{table, static_cast<uint32_t>(chunk), map_crc, data_crc, 0};
  static_assert(sizeof(sealed) == 24);  // without padding
  return {data_crc, crc32c(std::as_bytes(std::span(&sealed, 1)))};
}

void seal_superblock(Superblock& superblock) { superblock.crc = superblock_crc(superblock); }

bool superblock_checksum_ok(const Superblock& superblock) {
  return superblock.crc == superblock_crc(superblock);
}

std::string uuid_text(const Uuid& uuid) {
  std::array<char, 37> text{};
  uuid_unparse_lower(uuid.data(), text.data());
  return text.data();
}

Uuid new_uuid() {
  Uuid uuid{};
  uuid_generate(uuid.data());
  return uuid;
}

}  // namespace pcow::format
