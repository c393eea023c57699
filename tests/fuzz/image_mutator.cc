// SPDX-License-Identifier: BSD-3-Clause
//
// Changes inputs the way images go wrong: a field of a structure gets another number that means
// something there. libFuzzer's own mutations come in between.
#include <pcow/image.h>
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <random>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/image_input.h"
#include "tests/fuzz/template_image.h"

namespace fuzz {
namespace {

using pcow::kPageSize;

constexpr size_t kPatchesMax = 24;
constexpr size_t kHeadSize = 256;  // most structures have their fields here

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) {}

  void mutate(ImageInput& input) {
    const size_t count = input.patches.size();
    switch (below(count == 0 ? 5 : 8)) {
      case 0:
        input.template_number = static_cast<uint8_t>(below(template_images().size()));
        break;
      case 1:
        input.flags ^= static_cast<uint8_t>(1U << below(7));
        break;
      case 2:
        add(input, page_patch(below(3) == 0 ? Patch::Kind::kZeroPage : Patch::Kind::kCopyPage));
        break;
      case 3:
      case 4:
        add(input, field_patch(input));
        break;
      case 5:
        input.patches.erase(input.patches.begin() + static_cast<std::ptrdiff_t>(below(count)));
        break;
      case 6:
        input.patches[below(count)] = field_patch(input);
        break;
      case 7:
        change(input.patches[below(count)]);
        break;
    }
  }

 private:
  uint64_t below(uint64_t end) { return random_() % end; }

  void add(ImageInput& input, Patch patch) {
    if (input.patches.size() < kPatchesMax) input.patches.push_back(std::move(patch));
  }

  Patch page_patch(Patch::Kind kind) {
    Patch patch;
    patch.kind = kind;
    patch.page = static_cast<uint8_t>(random_());
    patch.to = static_cast<uint8_t>(random_());
    return patch;
  }

  const TemplateImage& base_of(const ImageInput& input) {
    return template_images()[input.template_number % template_images().size()];
  }

  // What ties the files of a set together, from the superblock of another one.
  Patch identity_patch(const TemplateImage& base, uint8_t page) {
    namespace format = pcow::format;
    static constexpr std::array<size_t, 6> kFields = {
        offsetof(format::Superblock, uuid),         offsetof(format::Superblock, stripe_count),
        offsetof(format::Superblock, member_index), offsetof(format::Superblock, set_uuid),
        offsetof(format::Superblock, session),      offsetof(format::Superblock, next_session)};
    std::vector<const TemplatePage*> others;
    for (const TemplatePage& other : base.pages) {
      if (other.role == Role::kSuperblock) others.push_back(&other);
    }
    const TemplatePage& from = *others[below(others.size())];
    Patch patch;
    patch.page = page;
    patch.offset = static_cast<uint16_t>(kFields.at(below(kFields.size())));
    const size_t source = below(3) == 0 ? kFields.at(below(kFields.size())) : patch.offset;
    patch.bytes.resize(sizeof(format::Uuid));
    std::memcpy(patch.bytes.data(), from.content.bytes.data() + source, patch.bytes.size());
    return patch;
  }

  Patch field_patch(const ImageInput& input) {
    const TemplateImage& base = base_of(input);
    Patch patch;
    patch.page = static_cast<uint8_t>(below(base.pages.size()));
    const bool superblock = base.pages[patch.page].role == Role::kSuperblock;
    if (superblock && base.striping.files > 1 && below(2) == 0) {
      return identity_patch(base, patch.page);
    }
    const size_t width = size_t{1} << below(4);
    patch.offset = static_cast<uint16_t>(field_offset(base.pages[patch.page], width));
    const uint64_t value = field_value(base, base.pages[patch.page], patch.offset);
    patch.bytes.resize(width);
    std::memcpy(patch.bytes.data(), &value, width);
    return patch;
  }

  // A field that is not zero, one of the head, or any.
  size_t field_offset(const TemplatePage& page, size_t width) {
    const uint64_t choice = below(4);
    if (choice == 0) return below(kPageSize / width) * width;
    if (choice == 1) return below(kHeadSize / width) * width;
    const size_t start = below(kPageSize);
    for (size_t n = 0; n < kPageSize; ++n) {
      const size_t at = (start + n) % kPageSize;
      if (page.content.bytes[at] != std::byte{0}) return at / width * width;
    }
    return 0;
  }

  uint64_t field_value(const TemplateImage& base, const TemplatePage& page, size_t offset) {
    static constexpr std::array<uint64_t, 12> kSpecial = {0,
                                                          1,
                                                          2,
                                                          64,
                                                          kPageSize,
                                                          pcow::kChunkSize,
                                                          pcow::kSegmentSize,
                                                          pcow::kMaxVirtualSize,
                                                          pcow::format::kMaxSegments,
                                                          UINT32_MAX,
                                                          uint64_t{1} << 63,
                                                          UINT64_MAX};
    uint64_t now = 0;
    std::memcpy(&now, page.content.bytes.data() + std::min(offset, kPageSize - sizeof(now)),
                sizeof(now));
    switch (below(8)) {
      case 0:
        return kSpecial[below(kSpecial.size())];
      case 1:
        return now + below(5) - 2;
      case 2:
        return now ^ uint64_t { 1 } << below(64);
      case 3:
        return base.pages[below(base.pages.size())].offset;
      case 4:
        return base.end() + (below(5) - 2) * pcow::format::kSlotSize;
      case 5:
        return field_of(base.pages[below(base.pages.size())]);
      case 6:
        return record_place(base);
      default:
        return random_();
    }
  }

  // What another field holds, which is not zero.
  uint64_t field_of(const TemplatePage& page) {
    uint64_t value = 0;
    std::memcpy(&value, page.content.bytes.data() + field_offset(page, sizeof(value)),
                sizeof(value));
    return value;
  }

  // A place in a block that may be one of the layer directory.
  uint64_t record_place(const TemplateImage& base) {
    return base.pages[below(base.pages.size())].offset + sizeof(pcow::format::BlockHeader) +
           below(pcow::format::kLayersPerBlock) * sizeof(pcow::format::LayerRecord);
  }

  void change(Patch& patch) {
    if (patch.bytes.empty()) {
      patch = page_patch(patch.kind);
      return;
    }
    std::vector<uint8_t> bytes = patch.bytes;
    bytes.resize(kPatchBytesMax);
    const size_t size = LLVMFuzzerMutate(bytes.data(), patch.bytes.size(), kPatchBytesMax);
    bytes.resize(std::max<size_t>(size, 1));
    patch.bytes = std::move(bytes);
  }

  std::mt19937_64 random_;
};

}  // namespace
}  // namespace fuzz

size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  if (seed % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
  fuzz::ImageInput input = fuzz::decode({data, size});
  fuzz::Mutator mutator(seed);
  mutator.mutate(input);
  if (seed % 3 == 0) mutator.mutate(input);
  const std::vector<uint8_t> bytes = fuzz::encode(input);
  if (bytes.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::copy(bytes.begin(), bytes.end(), data);
  return bytes.size();
}
