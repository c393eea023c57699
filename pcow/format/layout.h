// SPDX-License-Identifier: BSD-3-Clause
//
// The on-media structures of pcow/FORMAT.md, section by section. Nothing but layout: FORMAT.md
// says what makes them valid. Reserved bytes are zero.
#pragma once

#include <pcow/units.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "pcow/base/le.h"

namespace pcow::format {

using Uuid = std::array<uint8_t, 16>;
template <size_t N>
using Reserved = std::array<uint8_t, N>;

inline constexpr uint32_t kVersion = 1;
inline constexpr size_t kBlockSize = kPageSize;
inline constexpr uint64_t kSlotSize = 64 * kKiB;
inline constexpr uint64_t kBlocksPerSlot = kSlotSize / kBlockSize;
inline constexpr uint64_t kSlotsPerSegment = kSegmentSize / kSlotSize;

// Section 2: fixed places.
inline constexpr std::array<uint64_t, 2> kSuperblockOffset = {0, 1 * kMiB};
inline constexpr uint64_t kRootOffset = 2 * kMiB;
inline constexpr uint64_t kRootSlotMapOffset = kRootOffset + kBlockSize;
inline constexpr uint64_t kLogOffset = 256 * kMiB;

// Section 3.
inline constexpr std::array<uint8_t, 8> kSuperblockMagic = {'P', 'C', 'O', 'W',
                                                            'I', 'M', 'G', '\n'};
inline constexpr uint32_t kStateDirty = 1u << 0;
inline constexpr uint32_t kStateCorrupt = 1u << 1;
inline constexpr uint64_t kIncompatibleBase = 1u << 0;
inline constexpr uint64_t kIncompatibleLayers = 1u << 1;
inline constexpr uint64_t kIncompatibleStripe = 1u << 2;
inline constexpr uint64_t kIncompatibleDense = 1u << 3;
inline constexpr uint64_t kIncompatibleZeroChunks = 1u << 4;
// Those that this version knows.
inline constexpr uint64_t kIncompatibleSupported =
    kIncompatibleBase | kIncompatibleLayers | kIncompatibleStripe;
inline constexpr uint64_t kCompatibleDataChecksums = 1u << 0;
inline constexpr uint64_t kAutoclearDataChecksumsValid = 1u << 0;
// Of the autoclear bits, those whose promise this version keeps when it writes.
inline constexpr uint64_t kAutoclearKept = kAutoclearDataChecksumsValid;

struct BaseReference {
  Le32 format;
  Le32 path_length;
  Uuid uuid;
  Le64 generation;
  Le64 base_size;
  Le64 next_generation;
  Reserved<16> reserved;
  std::array<char, 1024> path;
  Reserved<960> reserved2;
};
static_assert(sizeof(BaseReference) == 2048);

struct Superblock {
  std::array<uint8_t, 8> magic;
  Le32 version;
  Le32 header_length;
  Le32 crc;
  Le32 copy;
  Le64 sequence;
  Le64 incompatible;
  Le64 compatible;
  Le64 autoclear;
  Uuid uuid;
  Le64 generation;
  Le64 created_ns;
  Le32 state;
  uint8_t line_shift;
  uint8_t page_shift;
  uint8_t chunk_shift;
  uint8_t segment_shift;
  Le64 root_offset;
  Le64 log_offset;
  Le64 log_size;
  Le64 log_tail;
  Le64 log_generation;
  Le64 checkpointed_epoch;
  Le32 stripe_count;
  Le32 stripe_unit_windows;
  Le32 member_index;
  Le32 reserved;
  Uuid set_uuid;
  Le64 stripe_table_offset;
  Uuid session;
  Uuid next_session;
  Reserved<808> reserved2;
  BaseReference base;
  Reserved<1024> reserved3;
};
static_assert(sizeof(Superblock) == kBlockSize);
static_assert(offsetof(Superblock, crc) == 16);
static_assert(offsetof(Superblock, state) == 88);
static_assert(offsetof(Superblock, log_tail) == 120);
static_assert(offsetof(Superblock, stripe_table_offset) == 176);
static_assert(offsetof(Superblock, session) == 184);
static_assert(offsetof(Superblock, base) == 1024);

// Section 4.
enum class BlockType : uint16_t {
  kRoot = 1,
  kSlotMap = 2,
  kSegmentTable = 3,
  kLayerDirectory = 4,
  kLayerTable = 5,
  kChunkTable = 6,
  kStripeTable = 7,
};
inline constexpr uint32_t kBlockMagic = 0x4b424350;  // "PCBK"

struct BlockHeader {
  Le32 magic;
  Le16 type;
  Le16 reserved;
  Le32 crc;
  Le32 length;
  Le64 self;
  Le64 owner;
  Uuid uuid;
  Reserved<16> reserved2;
};
static_assert(sizeof(BlockHeader) == kLineSize);

// Section 5.
inline constexpr size_t kSegmentTableSlots = 64;
inline constexpr size_t kLayerDirectorySlots = 32;

struct RootBlock {
  BlockHeader header;
  Le64 virtual_size;
  Le64 committed_epoch;
  Le64 active_layer;
  Le64 next_layer_id;
  Le64 active_record;
  Le64 allocated_pages;
  Le64 segment_count;
  Le64 trim_first_chunk;
  Le64 trim_chunk_count;
  Le64 quarantined_segments;
  Le32 layer_count;
  Reserved<4> reserved;
  Le64 deleting_record;
  Reserved<96> reserved2;
  std::array<Le64, kSegmentTableSlots> segment_table;
  std::array<Le64, kLayerDirectorySlots> layer_directory;
  Reserved<3072> reserved3;
};
static_assert(sizeof(RootBlock) == kBlockSize);
static_assert(offsetof(RootBlock, layer_count) == 144);
static_assert(offsetof(RootBlock, deleting_record) == 152);
static_assert(offsetof(RootBlock, segment_table) == 256);
static_assert(offsetof(RootBlock, layer_directory) == 768);

// Section 6.
enum class SegmentKind : uint8_t {
  kFree = 0,
  kHeader = 1,
  kMetadata = 2,
  kData = 3,
  kDense = 4,
  kQuarantined = 5,
  kLog = 6,
};

struct SegmentEntry {
  uint8_t kind;
  Reserved<7> reserved;
  Le64 owner;
  Le64 epoch;
  Reserved<40> reserved2;
  std::array<uint8_t, 64> windows;
};
static_assert(sizeof(SegmentEntry) == 128);
inline constexpr uint64_t kSegmentsPerBlock = 31;
inline constexpr uint64_t kSegmentsPerSlot = kSegmentsPerBlock * kBlocksPerSlot;
inline constexpr uint64_t kMaxSegments = kSegmentsPerSlot * kSegmentTableSlots;

struct SegmentTableBlock {
  BlockHeader header;
  std::array<SegmentEntry, kSegmentsPerBlock> entries;
  Reserved<64> reserved;
};
static_assert(sizeof(SegmentTableBlock) == kBlockSize);

struct SlotMapBlock {
  BlockHeader header;
  std::array<uint8_t, kSlotsPerSegment / 8> used;
  Reserved<1984> reserved;
};
static_assert(sizeof(SlotMapBlock) == kBlockSize);

// Section 7.
inline constexpr uint32_t kLayerFrozen = 1u << 0;
inline constexpr uint32_t kLayerDeleting = 1u << 1;
inline constexpr size_t kLayerTableSlots = 8;

struct LayerRecord {
  Le64 id;
  Le64 parent;
  Le64 created_ns;
  Le32 flags;
  Le32 name_length;
  Le64 virtual_size;
  Le64 allocated_pages;
  std::array<Le64, kLayerTableSlots> tables;
  std::array<char, 128> name;
  Le64 epoch;
  Le64 base_size;
};
static_assert(sizeof(LayerRecord) == 256);
static_assert(offsetof(LayerRecord, tables) == 48);
static_assert(offsetof(LayerRecord, name) == 112);
inline constexpr uint64_t kLayersPerBlock = 15;
inline constexpr uint64_t kLayersPerSlot = kLayersPerBlock * kBlocksPerSlot;
inline constexpr uint64_t kMaxLayers = kLayersPerSlot * kLayerDirectorySlots;
inline constexpr size_t kMaxNameLength = 127;

struct LayerDirectoryBlock {
  BlockHeader header;
  std::array<LayerRecord, kLayersPerBlock> records;
  Reserved<192> reserved;
};
static_assert(sizeof(LayerDirectoryBlock) == kBlockSize);

// Section 8.
inline constexpr uint64_t kGibsPerBlock = 504;
inline constexpr uint64_t kGibsPerSlot = kGibsPerBlock * kBlocksPerSlot;

struct LayerTableBlock {
  BlockHeader header;
  std::array<Le64, kGibsPerBlock> chunk_tables;
};
static_assert(sizeof(LayerTableBlock) == kBlockSize);

// Section 9.
enum class ChunkState : uint8_t { kNone = 0, kStored = 1, kZero = 2 };

struct ChunkTableHeader {
  BlockHeader header;
  Le64 gib;
  Le64 layer;
  Le64 segment;
  Le64 parent;
  std::array<Le32, 2> entries_crc;
  Reserved<24> reserved;
  std::array<uint8_t, kChunksPerSegment / 8> owning_chunks;
  Reserved<3904> reserved2;
};
static_assert(sizeof(ChunkTableHeader) == kBlockSize);
static_assert(offsetof(ChunkTableHeader, entries_crc) == 96);
static_assert(offsetof(ChunkTableHeader, owning_chunks) == 128);

struct ChunkEntry {
  Le32 map_crc;
  Le16 owned_pages;
  uint8_t state;
  uint8_t reserved;
  Le64 window;
};
static_assert(sizeof(ChunkEntry) == 16);

// Of the pages of one chunk; all zero: none.
struct DataChecksum {
  Le32 data_crc;
  Le32 own_crc;

  bool operator==(const DataChecksum& other) const {
    return data_crc == other.data_crc && own_crc == other.own_crc;
  }
};
static_assert(sizeof(DataChecksum) * kChunksPerSegment == kBlockSize);

using PageMapBytes = std::array<uint8_t, kPagesPerChunk / 8>;
static_assert(sizeof(PageMapBytes) == kLineSize);

inline constexpr uint64_t kChunkEntriesOffset = 4 * kKiB;
inline constexpr uint64_t kPageMapsOffset = 12 * kKiB;
inline constexpr uint64_t kChunkTableUsed = 44 * kKiB;
inline constexpr uint64_t kDataChecksumsOffset = 44 * kKiB;
inline constexpr uint64_t kEntriesPerBlock = kBlockSize / sizeof(ChunkEntry);
inline constexpr uint64_t kMapsPerBlock = kBlockSize / sizeof(PageMapBytes);

// Section 10.
enum class RecordType : uint16_t { kLines = 1, kCommit = 2, kPad = 3, kFilling = 4, kZeros = 5 };
inline constexpr uint32_t kRecordMagic = 0x474c4350;        // "PCLG"
inline constexpr uint64_t kLogTailEnd = uint64_t{1} << 63;  // LSNs behind the tail do not overflow

struct LogRecord {
  Le32 magic;
  Le16 type;
  Le16 reserved;
  Le32 crc;
  Le32 length;
  Le64 generation;
  Le64 lsn;
  Le64 epoch;
  Le64 target;
  Le64 mask;
  Le64 reserved2;
};
static_assert(sizeof(LogRecord) == kLineSize);

// Section 12.
inline constexpr uint64_t kStripeTableOffset = 64 * kKiB;
inline constexpr uint32_t kMaxStripeFiles = 16;

struct StripeRecord {
  Uuid uuid;
  Le32 name_length;
  Reserved<4> reserved;
  std::array<char, 232> name;
};
static_assert(sizeof(StripeRecord) == 256);

struct StripeTableBlock {
  BlockHeader header;
  Le32 count;
  Reserved<60> reserved;
  std::array<StripeRecord, kMaxStripeFiles - 1> members;
  Reserved<128> reserved2;
};
static_assert(sizeof(StripeTableBlock) == kBlockSize);
static_assert(offsetof(StripeTableBlock, members) == 128);

// Section 13: limits of this version.
inline constexpr uint64_t kMinLogSize = 4 * kMiB;
inline constexpr uint64_t kMaxNewLogSize = 256 * kMiB;  // as created; it may grow
inline constexpr uint64_t kLogSizeEnd = 4 * kGiB;
inline constexpr uint64_t kLogSegments = kLogSizeEnd / kSegmentSize;  // outside the first one

template <typename T>
inline constexpr bool kIsBlock =
    std::conjunction_v<std::is_trivially_copyable<T>, std::is_standard_layout<T>,
                       std::bool_constant<sizeof(T) == kBlockSize>>;
static_assert(kIsBlock<Superblock> && kIsBlock<RootBlock> && kIsBlock<ChunkTableHeader>);

}  // namespace pcow::format
