// SPDX-License-Identifier: BSD-3-Clause
//
// The format of the published pcow, read-only. Its layout, little-endian, in blocks of block_size:
//
//   layer:    super block, then segments; the last segment may be partly filled
//   segment:  meta block, then one data block for each entry of it
//   super:    0 block_size (4), 4 max_block_num (4), 8 index of the last segment (4), 12 "NBJL",
//             16 name of a base image (48)
//   meta:     0 number of entries (4), 64 entries of 8 bytes: number of the guest block (4), bitmap
//             of the 4 KiB units that are valid while the block is being copied, 0 = all (4)
//
// The next layer begins right behind the last data block; a block of a later layer, or of a later
// entry, hides the earlier ones. There are no checksums, so every field is hostile input. (The
// author's build without fine-grained copies has entries of 4 bytes; nothing in a file tells.)
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <vector>

#include "pcow/base/le.h"
#include "tools/common/failure.h"
#include "tools/pcow-img/content.h"
#include "tools/pcow-img/input_file.h"

namespace pcow_img {
namespace {

constexpr uint64_t kBlockSizeMax = 64 * pcow::kMiB;
constexpr uint64_t kUnitSize = 4 * pcow::kKiB;
constexpr uint64_t kUnitsInBitmap = 32;

struct Super {
  pcow::Le32 block_size;
  pcow::Le32 max_block_num;
  pcow::Le32 last_segment;
  std::array<char, 4> magic;
  std::array<char, 48> base_name;
};
static_assert(sizeof(Super) == 64);

struct MetaHeader {
  pcow::Le32 count;
  std::array<uint8_t, 60> unused;
};
static_assert(sizeof(MetaHeader) == 64);

struct Entry {
  pcow::Le32 block;
  pcow::Le32 units;
};
static_assert(sizeof(Entry) == 8);

template <typename T>
std::span<std::byte> bytes_of(T* values, size_t count = 1) {
  return {reinterpret_cast<std::byte*>(values), count * sizeof(T)};
}

// Where the data of a guest block is; `older` holds the units that this one does not.
struct Block {
  uint64_t file_offset;
  uint32_t units;  // 0 = all
  int64_t older;   // index, or -1
};

class NbjlContent : public Content {
 public:
  NbjlContent(InputFile file, const Super& super)
      : Content(uint64_t{super.block_size} * super.max_block_num),
        file_(std::move(file)),
        block_size_(super.block_size),
        block_count_(super.max_block_num) {
    uint64_t offset = 0;
    Super layer = super;
    while (true) {
      offset = load_layer(offset, layer);
      if (offset + sizeof(Super) > file_.size()) break;
      file_.read(offset, bytes_of(&layer));
      if (std::string_view(layer.magic.data(), 4) != "NBJL") break;
      if (layer.block_size != super.block_size || layer.max_block_num != super.max_block_num) {
        throw damaged("its layers differ in their sizes");
      }
    }
  }

 protected:
  Extent extent_impl(uint64_t at) const override {
    const uint64_t first = at / block_size_;
    auto next = latest_.lower_bound(first);
    const bool data = next != latest_.end() && next->first == first;
    uint64_t end = next == latest_.end() ? block_count_ : next->first;
    for (; data && next != latest_.end() && next->first == end; ++next) ++end;
    return {at, end * block_size_ - at, data};
  }

  void read_impl(uint64_t offset, std::span<std::byte> out) const override {
    while (!out.empty()) {
      const size_t length = std::min<size_t>(out.size(), kUnitSize - offset % kUnitSize);
      read_unit(offset, out.first(length));
      offset += length;
      out = out.subspan(length);
    }
  }

 private:
  tools::Failure damaged(const std::string& why) const {
    return tools::Failure("'" + file_.path() + "' is damaged: " + why);
  }

  // Returns the offset behind the layer.
  uint64_t load_layer(uint64_t super_offset, const Super& layer) {
    const uint64_t entries_max = (block_size_ - sizeof(MetaHeader)) / sizeof(Entry);
    uint64_t meta_offset = super_offset + block_size_;
    for (uint64_t segment = 0;; ++segment) {
      const bool last = segment == layer.last_segment;
      const uint64_t count = load_segment(meta_offset, entries_max);
      if (!last && count != entries_max) {
        throw damaged("a segment that is not the last is not full");
      }
      meta_offset += block_size_ * (1 + count);
      if (last) return meta_offset;
    }
  }

  uint64_t load_segment(uint64_t meta_offset, uint64_t entries_max) {
    if (meta_offset + block_size_ > file_.size()) throw damaged("it is truncated");
    MetaHeader header;
    file_.read(meta_offset, bytes_of(&header));
    const uint64_t count = header.count;
    if (count > entries_max) throw damaged("a segment has too many entries");
    const uint64_t data_offset = meta_offset + block_size_;
    if (count * block_size_ > file_.size() - data_offset) throw damaged("it is truncated");
    std::vector<Entry> entries(count);
    file_.read(meta_offset + sizeof(header), bytes_of(entries.data(), entries.size()));
    for (uint64_t n = 0; n < count; ++n) add_block(entries[n], data_offset + n * block_size_);
    return count;
  }

  void add_block(const Entry& entry, uint64_t file_offset) {
    if (entry.block >= block_count_) throw damaged("an entry lies beyond the end of the image");
    if (entry.units != 0 && block_size_ > kUnitsInBitmap * kUnitSize) {
      throw damaged("block " + std::to_string(entry.block) +
                    " was left half copied, and its clusters are too large to tell which half");
    }
    const auto [place, is_new] = latest_.try_emplace(entry.block, blocks_.size());
    blocks_.push_back(
        {file_offset, entry.units, is_new ? -1 : static_cast<int64_t>(place->second)});
    place->second = blocks_.size() - 1;
  }

  void read_unit(uint64_t offset, std::span<std::byte> out) const {
    const uint64_t unit = offset % block_size_ / kUnitSize;
    const auto found = latest_.find(offset / block_size_);
    int64_t index = found == latest_.end() ? -1 : static_cast<int64_t>(found->second);
    while (index >= 0) {
      const Block& block = blocks_[static_cast<size_t>(index)];
      if (block.units == 0 || (block.units >> unit & 1) != 0) {
        return file_.read(block.file_offset + offset % block_size_, out);
      }
      index = block.older;
    }
    std::fill(out.begin(), out.end(), std::byte{0});
  }

  const InputFile file_;
  const uint64_t block_size_;
  const uint64_t block_count_;
  std::vector<Block> blocks_;
  // Guest block → index into blocks_. In order: what lies between two of them takes no time.
  std::map<uint64_t, size_t> latest_;
};

void check_super(const InputFile& file, const Super& super) {
  const std::string name = "'" + file.path() + "'";
  if (std::string_view(super.magic.data(), 4) != "NBJL") {
    throw tools::Failure(name + " is not an image of the published pcow (NBJL)");
  }
  if (super.block_size % kUnitSize != 0 || super.block_size == 0 ||
      super.block_size > kBlockSizeMax || super.max_block_num == 0 ||
      super.max_block_num > INT32_MAX) {
    throw tools::Failure(name + " is damaged: its sizes are impossible");
  }
  if (super.base_name[0] != '\0') {
    const std::string base(super.base_name.data(),
                           strnlen(super.base_name.data(), super.base_name.size()));
    throw tools::Failure(name + " has the base image '" + base +
                         "', which is not followed: what lies in it would read as zeros");
  }
}

}  // namespace

std::unique_ptr<Content> open_nbjl_content(const std::string& file) {
  InputFile input(file);
  Super super{};
  if (input.size() >= sizeof(super)) input.read(0, bytes_of(&super));
  check_super(input, super);
  return std::make_unique<NbjlContent>(std::move(input), super);
}

}  // namespace pcow_img
