// SPDX-License-Identifier: BSD-3-Clause
//
// What the bytes of an input mean to the targets that take an image: which template, and changes to
// it. Any bytes mean something.
//
//   byte 0   template, modulo their number
//   byte 1   flags
//   then patches, each of a kind (1, modulo 5) and
//     kBytes     page (1, modulo the template's), offset (2, modulo 4096), n - 1 (1, modulo 16), n
//                bytes
//     kCopyPage  from (1), to (1): pages of the template
//     kZeroPage  page (1)
//     kAnywhere  number of the page in the file (4), offset (2), n - 1 (1), n bytes
//     kFileSize  size (4), in sectors of 512 bytes; of a stripe set, the four highest bits are the
//                number of the file, modulo theirs
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace fuzz {

inline constexpr uint8_t kFlagKeepChecksums = 1;  // leave them wrong
inline constexpr uint8_t kFlagForceShare = 2;     // for the targets that read
inline constexpr uint8_t kFlagReplay = 4;
inline constexpr unsigned kChoiceShift = 3;  // three bits: which snapshot, or what a writer does
inline constexpr uint8_t kChoices = 8;
inline constexpr uint8_t kFlagCount = 64;  // numbers of pages follow the page maps

struct Patch {
  enum class Kind : uint8_t { kBytes, kCopyPage, kZeroPage, kAnywhere, kFileSize };
  Kind kind = Kind::kBytes;
  uint8_t page = 0;
  uint8_t to = 0;
  uint32_t place = 0;
  uint16_t offset = 0;
  std::vector<uint8_t> bytes;
};
inline constexpr unsigned kPatchKinds = 5;
inline constexpr size_t kPatchBytesMax = 16;

struct ImageInput {
  uint8_t template_number = 0;
  uint8_t flags = 0;
  std::vector<Patch> patches;

  uint8_t choice() const { return flags >> kChoiceShift & (kChoices - 1); }
};

ImageInput decode(std::span<const uint8_t> bytes);
std::vector<uint8_t> encode(const ImageInput& input);

}  // namespace fuzz
