// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/patched_image.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "tests/fuzz/checksums.h"
#include "tests/fuzz/fuzz.h"

namespace fuzz {
namespace {

using pcow::kPageSize;
using pcow::format::Block;

constexpr auto kPageStep = static_cast<off_t>(kPageSize);
constexpr uint64_t kSector = 512;
// So that a patch can also lie behind the end.
constexpr uint64_t kPagesBeyond = 4;

void overwrite(Block& page, uint16_t offset, const std::vector<uint8_t>& bytes) {
  const size_t start = offset % kPageSize;
  const size_t length = std::min(bytes.size(), kPageSize - start);
  std::memcpy(page.bytes.data() + start, bytes.data(), length);
}

void apply(const Patch& patch, const TemplateImage& base, PatchedImage& image) {
  const uint64_t page = base.pages[patch.page % base.pages.size()].offset;
  switch (patch.kind) {
    case Patch::Kind::kBytes:
      overwrite(image.pages[page], patch.offset, patch.bytes);
      break;
    case Patch::Kind::kCopyPage:
      image.pages[base.pages[patch.to % base.pages.size()].offset] = image.pages[page];
      break;
    case Patch::Kind::kZeroPage:
      image.pages[page] = Block{};
      break;
    case Patch::Kind::kAnywhere: {
      const uint64_t count = base.file_size / kPageSize + kPagesBeyond;
      overwrite(image.pages[patch.place % count * kPageSize], patch.offset, patch.bytes);
      break;
    }
    case Patch::Kind::kFileSize:
      image.file_size = patch.place * kSector;
      break;
  }
}

}  // namespace

PatchedImage patch_template(const ImageInput& input) {
  const TemplateImage& base = template_images()[input.template_number % template_images().size()];
  PatchedImage image;
  image.file_size = base.file_size;
  for (const TemplatePage& page : base.pages) image.pages[page.offset] = page.content;
  for (const Patch& patch : input.patches) apply(patch, base, image);
  if ((input.flags & kFlagKeepChecksums) == 0) {
    seal_all(base, (input.flags & kFlagCount) != 0, image.pages);
  }
  return image;
}

ImageFile::ImageFile(const PatchedImage& image)
    : fd_(memfd_create("fuzz", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(fd_)) {
  require(fd_ >= 0 && ftruncate(fd_, static_cast<off_t>(image.file_size)) == 0,
          "a file in memory can be made");
  for (const auto& [offset, page] : image.pages) {
    if (offset >= image.file_size) break;
    const size_t length = std::min(kPageSize, image.file_size - offset);
    require(pwrite(fd_, page.bytes.data(), length, static_cast<off_t>(offset)) ==
                static_cast<ssize_t>(length),
            "a file in memory takes a page");
  }
}

ImageFile::~ImageFile() { close(fd_); }

PatchedImage ImageFile::content() const {
  PatchedImage image;
  image.file_size = static_cast<uint64_t>(lseek(fd_, 0, SEEK_END));
  for (off_t at = 0; (at = lseek(fd_, at, SEEK_DATA)) >= 0; at += kPageStep) {
    at -= at % kPageStep;
    Block page;
    require(pread(fd_, page.bytes.data(), kPageSize, at) > 0, "a file in memory can be read");
    if (!(page == Block{})) image.pages[static_cast<uint64_t>(at)] = page;
  }
  return image;
}

}  // namespace fuzz
