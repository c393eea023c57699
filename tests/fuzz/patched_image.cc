// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/patched_image.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>

#include "tests/fuzz/checksums.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/template_recipes.h"
#include "tests/support/temp_dir.h"

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

// Of a stripe set, the top bits of the place say of which file.
void set_size(uint32_t place, std::vector<uint64_t>& sizes) {
  constexpr unsigned kFileShift = 28;
  if (sizes.size() == 1) {
    sizes.front() = place * kSector;
  } else {
    sizes[(place >> kFileShift) % sizes.size()] =
        (place & ((uint32_t{1} << kFileShift) - 1)) * kSector;
  }
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
      const uint64_t count = base.end() / kPageSize + kPagesBeyond;
      overwrite(image.pages[patch.place % count * kPageSize], patch.offset, patch.bytes);
      break;
    }
    case Patch::Kind::kFileSize:
      set_size(patch.place, image.file_sizes);
      break;
  }
}

// Directories in which a set's files are found by their names: links to descriptors of this
// process, made once. A set that is in use takes one of them.
class SetPlaces {
 public:
  static SetPlaces& get() {
    static SetPlaces places;
    return places;
  }

  size_t take(const std::vector<int>& fds) {
    size_t place = 0;
    while (place < kPlaces && taken_.at(place)) ++place;
    require(place < kPlaces, "there are places for sets");
    taken_.at(place) = true;
    for (size_t file = 0; file < kFilesMax; ++file) {
      const int link = descriptor(place, file);
      // A set of fewer files has no others.
      if (file >= fds.size()) {
        close(link);
      } else {
        require(dup2(fds[file], link) == link, "a descriptor has a number of its own");
      }
    }
    return place;
  }
  void give_back(size_t place) {
    taken_.at(place) = false;
    for (size_t file = 0; file < kFilesMax; ++file) close(descriptor(place, file));
  }
  std::string path(size_t place) const { return directory(place) + "/image"; }

 private:
  static constexpr size_t kPlaces = 4;
  static constexpr size_t kFilesMax = 4;
  static constexpr int kFirst = 900;  // descriptors that nobody else gets

  SetPlaces() {
    for (size_t place = 0; place < kPlaces; ++place) {
      std::filesystem::create_directory(directory(place));
      for (size_t file = 0; file < kFilesMax; ++file) {
        std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(descriptor(place, file)),
                                        file == 0 ? path(place) : member_path(path(place), file));
      }
    }
  }
  static int descriptor(size_t place, size_t file) {
    return kFirst + static_cast<int>(place * kFilesMax + file);
  }
  std::string directory(size_t place) const { return dir_.file(std::to_string(place)); }

  const test::TempDir dir_;
  std::array<bool, kPlaces> taken_{};
};

}  // namespace

PatchedImage patch_template(const ImageInput& input) {
  const TemplateImage& base = template_images()[input.template_number % template_images().size()];
  PatchedImage image;
  image.striping = base.striping;
  image.file_sizes = base.file_sizes;
  for (const TemplatePage& page : base.pages) image.pages[page.offset] = page.content;
  for (const Patch& patch : input.patches) apply(patch, base, image);
  if ((input.flags & kFlagKeepChecksums) == 0) {
    seal_all(base, (input.flags & kFlagCount) != 0, image.pages);
  }
  return image;
}

ImageFile::ImageFile(const PatchedImage& image) : striping_(image.striping) {
  for (const uint64_t size : image.file_sizes) {
    fds_.push_back(memfd_create("fuzz", MFD_CLOEXEC));
    require(fds_.back() >= 0 && ftruncate(fds_.back(), static_cast<off_t>(size)) == 0,
            "a file in memory can be made");
  }
  for (const auto& [offset, page] : image.pages) {
    const Striping::Place place = striping_.place(offset);
    const uint64_t size = image.file_sizes.at(place.file);
    if (place.offset >= size) continue;
    const size_t length = std::min(kPageSize, size - place.offset);
    require(pwrite(fds_[place.file], page.bytes.data(), length, static_cast<off_t>(place.offset)) ==
                static_cast<ssize_t>(length),
            "a file in memory takes a page");
  }
  if (fds_.size() == 1) {
    path_ = "/proc/self/fd/" + std::to_string(fds_.front());
    return;
  }
  place_ = SetPlaces::get().take(fds_);
  path_ = SetPlaces::get().path(place_);
}

ImageFile::~ImageFile() {
  if (fds_.size() > 1) SetPlaces::get().give_back(place_);
  for (const int fd : fds_) close(fd);
}

PatchedImage ImageFile::content() const {
  PatchedImage image;
  image.striping = striping_;
  for (size_t file = 0; file < fds_.size(); ++file) {
    const int fd = fds_[file];
    image.file_sizes.push_back(static_cast<uint64_t>(lseek(fd, 0, SEEK_END)));
    for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += kPageStep) {
      at -= at % kPageStep;
      Block page;
      require(pread(fd, page.bytes.data(), kPageSize, at) > 0, "a file in memory can be read");
      const uint64_t offset = striping_.offset({file, static_cast<uint64_t>(at)});
      if (!(page == Block{})) image.pages[offset] = page;
    }
  }
  return image;
}

}  // namespace fuzz
