// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/image_create.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>
#include <vector>

#include "pcow/engine/stripe_set.h"
#include "pcow/engine/superblock_store.h"
#include "pcow/format/block.h"
#include "pcow/media/media.h"

namespace pcow {
namespace {

using format::Block;
using format::BlockType;

constexpr LayerId kFirstLayer{1};

// Places of the first structures, in slots that follow the root's.
constexpr uint64_t kSegmentTableSlot = format::kRootOffset + format::kSlotSize;
constexpr uint64_t kLayerDirectorySlot = kSegmentTableSlot + format::kSlotSize;
constexpr uint64_t kLayerTableSlot = kLayerDirectorySlot + format::kSlotSize;

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

class Creator {
 public:
  Creator(Media& media, const CreateOptions& options, const format::BaseReference& base,
          std::vector<std::string> members)
      : media_(&media),
        options_(options),
        base_(base),
        members_(std::move(members)),
        uuid_(format::new_uuid()),
        created_ns_(now_ns()) {}

  Result<void> write_all() {
    PCOW_TRY(write_root());
    PCOW_TRY(write_slot_map());
    PCOW_TRY(write_segment_table());
    PCOW_TRY(write_layer());
    format::Superblock first = superblock();
    if (!members_.empty()) PCOW_TRY(write_members(first));
    PCOW_TRY(media_->flush());
    // The superblocks last, of the first file the very last: until then the file is not an image.
    return SuperblockStore(format::Superblock{}).update(*media_, first);
  }

 private:
  Result<void> write_block(Block& block, BlockType type, uint64_t offset, uint64_t owner) {
    format::init_header(block, type, offset, owner, uuid_);
    format::seal(block);
    PCOW_TRY(media_->reserve(offset, kPageSize));
    return media_->write(&StoredBytes::metadata, offset, block.bytes);
  }

  Result<void> write_root() {
    Block block;
    auto& root = block.as<format::RootBlock>();
    root.virtual_size = options_.virtual_size;
    root.active_layer = kFirstLayer.value;
    root.next_layer_id = kFirstLayer.value + 1;
    root.active_record = kLayerDirectorySlot + sizeof(format::BlockHeader);
    root.segment_count = 1;
    root.layer_count = 1;
    root.segment_table[0] = kSegmentTableSlot;
    root.layer_directory[0] = kLayerDirectorySlot;
    return write_block(block, BlockType::kRoot, format::kRootOffset, 0);
  }

  Result<void> write_slot_map() {
    Block block;
    auto& used = block.as<format::SlotMapBlock>().used;
    const uint64_t table_slots =
        (options_.virtual_size + format::kGibsPerSlot * kGiB - 1) / (format::kGibsPerSlot * kGiB);
    const uint64_t first_free = kLayerTableSlot / format::kSlotSize + table_slots;
    const uint64_t end = format::kLogOffset / format::kSlotSize;
    for (uint64_t slot = 0; slot < format::kSlotsPerSegment; ++slot) {
      if (slot < first_free || slot >= end) {
        used[slot / 8] = static_cast<uint8_t>(used[slot / 8] | 1u << (slot % 8));
      }
    }
    return write_block(block, BlockType::kSlotMap, format::kRootSlotMapOffset, 0);
  }

  Result<void> write_segment_table() {
    Block block;
    block.as<format::SegmentTableBlock>().entries[0].kind =
        static_cast<uint8_t>(format::SegmentKind::kHeader);
    return write_block(block, BlockType::kSegmentTable, kSegmentTableSlot, 0);
  }

  Result<void> write_layer() {
    Block directory;
    auto& record = directory.as<format::LayerDirectoryBlock>().records[0];
    record.id = kFirstLayer.value;
    record.created_ns = created_ns_;
    record.virtual_size = options_.virtual_size;
    record.base_size = std::min<uint64_t>(base_.base_size, options_.virtual_size);
    const uint64_t gibs = (options_.virtual_size + kGiB - 1) / kGiB;
    for (uint64_t first = 0; first < gibs; first += format::kGibsPerBlock) {
      const uint64_t block = first / format::kGibsPerBlock;
      record.tables[block / format::kBlocksPerSlot] =
          kLayerTableSlot + block / format::kBlocksPerSlot * format::kSlotSize;
      Block table;
      PCOW_TRY(write_block(table, BlockType::kLayerTable,
                           kLayerTableSlot + block * format::kBlockSize, kFirstLayer.value));
    }
    return write_block(directory, BlockType::kLayerDirectory, kLayerDirectorySlot, 0);
  }

  // What the first file says of the set, and the superblocks of the others.
  Result<void> write_members(format::Superblock& first) {
    first.incompatible = first.incompatible | format::kIncompatibleStripe;
    first.stripe_count = static_cast<uint32_t>(members_.size() + 1);
    first.stripe_unit_windows = static_cast<uint32_t>(options_.stripe_unit / kWindowSize);
    first.set_uuid = format::new_uuid();
    first.session = format::new_uuid();
    first.stripe_table_offset = format::kStripeTableOffset;
    std::vector<format::Uuid> uuids;
    for (uint32_t index = 1; index <= members_.size(); ++index) {
      uuids.push_back(format::new_uuid());
      PCOW_TRY(SuperblockStore(format::Superblock{}, index)
                   .update(*media_, member_superblock(first, index, uuids.back())));
    }
    PCOW_TRY(media_->reserve(format::kStripeTableOffset, kPageSize));
    return media_->write(&StoredBytes::metadata, format::kStripeTableOffset,
                         stripe_table(members_, uuids, uuid_).bytes);
  }

  format::Superblock superblock() const {
    format::Superblock sb{};
    sb.magic = format::kSuperblockMagic;
    sb.version = format::kVersion;
    sb.header_length = static_cast<uint32_t>(sizeof(sb));
    sb.uuid = uuid_;
    sb.generation = 1;
    sb.created_ns = created_ns_;
    sb.line_shift = 6;
    sb.page_shift = 12;
    sb.chunk_shift = 21;
    sb.segment_shift = 30;
    sb.root_offset = format::kRootOffset;
    sb.log_offset = format::kLogOffset;
    sb.log_size = options_.log_size;
    sb.log_generation = 1;
    sb.stripe_count = 1;
    sb.base = base_;
    if (base_.format != 0) sb.incompatible = format::kIncompatibleBase;
    return sb;
  }

  Media* media_;
  CreateOptions options_;
  format::BaseReference base_;
  std::vector<std::string> members_;
  format::Uuid uuid_;
  uint64_t created_ns_;
};

// The highest offset the image may grow to must be allowed here and now, not when the guest runs.
Result<void> check_file_limit(const ImageFile& file, uint64_t virtual_size) {
  PCOW_TRY(file.try_extend(round_up(virtual_size, kSegmentSize) + kSegmentSize));
  return file.extend(kSegmentSize);
}

// The superblocks have their space from the start.
Result<void> prepare(const ImageFile& file, uint64_t virtual_size) {
  PCOW_TRY(check_file_limit(file, virtual_size));
  for (uint32_t index = 0; index < file.count(); ++index) {
    for (const uint64_t offset : format::kSuperblockOffset) {
      PCOW_TRY(file.member(index).reserve(offset, kPageSize));
    }
  }
  return {};
}

Result<void> make_durable(const ImageFile& file) {
  for (uint32_t index = 0; index < file.count(); ++index) {
    PCOW_TRY(file.member(index).sync_with_times());
  }
  return {};
}

}  // namespace

Result<void> check_create_options(const CreateOptions& options) {
  if (options.virtual_size < kMinVirtualSize || options.virtual_size > kMaxVirtualSize ||
      options.virtual_size % kChunkSize != 0) {
    return make_error(Code::kInvalid,
                      "size " + std::to_string(options.virtual_size) +
                          " is not possible: give a multiple of 2M, from 2M to 32T");
  }
  if (options.log_size < format::kMinLogSize || options.log_size > format::kMaxNewLogSize ||
      options.log_size % kWindowSize != 0) {
    return make_error(Code::kInvalid, "log size " + std::to_string(options.log_size) +
                                          " is not possible: give a multiple of 2M, from 4M to "
                                          "256M");
  }
  if (options.stripe.empty()) {
    if (options.stripe_unit == 0) return {};
    return make_error(Code::kInvalid, "a stripe unit goes with the files of a stripe set");
  }
  const uint64_t files = options.stripe.size() + 1;
  if (!is_stripe_geometry(files, 1)) {
    return make_error(Code::kInvalid, "a stripe set of " + std::to_string(files) +
                                          " files, with the image itself, is not possible: 2, 4, 8 "
                                          "or " +
                                          std::to_string(format::kMaxStripeFiles));
  }
  if (options.stripe_unit % kWindowSize != 0 ||
      !is_stripe_geometry(files, options.stripe_unit / kWindowSize)) {
    return make_error(Code::kInvalid, "stripe unit " + std::to_string(options.stripe_unit) +
                                          " is not possible: give 2M times a power of two, " +
                                          std::to_string(kSegmentSize / files / kMiB) +
                                          "M at most for this number of files");
  }
  return {};
}

Result<void> write_empty_image(ImageFile file, const CreateOptions& options,
                               const format::BaseReference& base,
                               std::vector<std::string> members) {
  PCOW_TRY(prepare(file, options.virtual_size));
  PCOW_TRY_ASSIGN(const std::unique_ptr<Media> media,
                  Media::open(std::move(file), Access::kReadWrite));
  PCOW_TRY(Creator(*media, options, base, std::move(members)).write_all());
  return make_durable(media->file());
}

uint64_t stripe_unit_for(uint64_t virtual_size, uint64_t files) {
  // Runs of 32 MiB are long enough for any medium. A GiB takes one mapping for each unit; half of
  // the 8,192 that a region may use is 4,096.
  constexpr uint64_t kSmallest = 16 * kWindowSize;
  constexpr uint64_t kMappings = 4096;
  const uint64_t wanted = std::bit_ceil(std::max(virtual_size / kMappings, kSmallest));
  return std::min(wanted, kSegmentSize / std::max<uint64_t>(std::bit_ceil(files), 1));
}

}  // namespace pcow
