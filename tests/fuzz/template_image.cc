// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/template_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/template_recipes.h"
#include "tests/support/temp_dir.h"

namespace fuzz {
namespace {

namespace format = pcow::format;
using format::Block;
using pcow::kPageSize;

constexpr auto kPageStep = static_cast<off_t>(kPageSize);

Role role_of(const TemplatePage& page, const std::vector<TemplatePage>& earlier) {
  if (page.offset >= kMembers) return Role::kSuperblock;
  for (const uint64_t offset : format::kSuperblockOffset) {
    if (page.offset == offset) return Role::kSuperblock;
  }
  if (page.offset >= format::kLogOffset && page.offset < format::kLogOffset + kTemplateLogSize) {
    return Role::kLog;
  }
  const auto& header = page.content.as<format::ChunkTableHeader>().header;
  const uint64_t slot = page.offset - page.offset % format::kSlotSize;
  if (header.magic == format::kBlockMagic) {
    const bool table = header.type == static_cast<uint16_t>(format::BlockType::kChunkTable);
    return table ? Role::kChunkTable : Role::kBlock;
  }
  for (const TemplatePage& other : earlier) {
    if (other.offset == slot && other.role == Role::kChunkTable) return Role::kChunkTable;
  }
  return Role::kData;
}

// The files of a template, open for reading.
class Source {
 public:
  Source(const std::string& path, const Recipe& recipe) : striping_{recipe.files, recipe.unit} {
    for (size_t file = 0; file < recipe.files; ++file) {
      const std::string name = file == 0 ? path : member_path(path, file);
      fds_.push_back(open(name.c_str(), O_RDONLY | O_CLOEXEC));
      require(fds_.back() >= 0, "the template opens");
    }
  }
  ~Source() {
    for (const int fd : fds_) close(fd);
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  const Striping& striping() const { return striping_; }
  std::vector<uint64_t> sizes() const {
    std::vector<uint64_t> sizes;
    for (const int fd : fds_) sizes.push_back(static_cast<uint64_t>(lseek(fd, 0, SEEK_END)));
    return sizes;
  }

  // Within a page.
  template <typename T>
  void read(uint64_t offset, T& out) const {
    const Striping::Place place = striping_.place(offset);
    require(pread(fds_.at(place.file), &out, sizeof(out), static_cast<off_t>(place.offset)) ==
                sizeof(out),
            "pread works");
  }

  // Those that hold something, ascending.
  std::vector<TemplatePage> pages() const {
    std::vector<TemplatePage> pages;
    for (size_t file = 0; file < fds_.size(); ++file) add_pages(file, pages);
    std::ranges::sort(pages, {}, &TemplatePage::offset);
    std::vector<TemplatePage> earlier;
    for (TemplatePage& page : pages) {
      page.role = role_of(page, earlier);
      earlier.push_back(page);
    }
    return earlier;
  }

 private:
  void add_pages(size_t file, std::vector<TemplatePage>& pages) const {
    const int fd = fds_[file];
    const off_t size = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
      const off_t end = std::min(lseek(fd, at, SEEK_HOLE), size);
      for (at -= at % kPageStep; at < end; at += kPageStep) {
        TemplatePage page;
        page.offset = striping_.offset({file, static_cast<uint64_t>(at)});
        read(page.offset, page.content);
        if (!(page.content == Block{})) pages.push_back(page);
      }
    }
  }

  const Striping striping_;
  std::vector<int> fds_;
};

std::vector<LogPlace> find_records(const Source& source) {
  std::vector<LogPlace> records;
  format::Superblock sb{};
  source.read(0, sb);
  for (uint64_t lsn = sb.log_tail;;) {
    const uint64_t place = sb.log_offset + lsn % sb.log_size;
    format::LogRecord record{};
    source.read(place, record);
    if (record.magic != format::kRecordMagic || record.lsn != lsn ||
        record.generation != sb.log_generation) {
      return records;
    }
    records.push_back({place, record.length});
    lsn += record.length;
  }
}

TemplateImage make(const Recipe& recipe) {
  const test::TempDir dir;
  const std::string path = dir.file("image");
  recipe.make(path);
  const Source source(path, recipe);
  return {recipe.name, source.striping(), source.sizes(), source.pages(), find_records(source)};
}

std::vector<TemplateImage> make_all() {
  std::vector<TemplateImage> images;
  for (const Recipe& recipe : recipes()) images.push_back(make(recipe));
  return images;
}

}  // namespace

Striping::Place Striping::place(uint64_t offset) const {
  if (files == 1) return {0, offset};
  if (offset >= kMembers) {
    return {(offset - kMembers) / pcow::kWindowSize, offset % pcow::kWindowSize};
  }
  const uint64_t turn = offset / unit;
  const size_t file = turn % files;
  const uint64_t header = file == 0 ? 0 : pcow::kWindowSize;
  return {file, header + turn / files * unit + offset % unit};
}

uint64_t Striping::offset(const Place& place) const {
  if (files == 1) return place.offset;
  const uint64_t header = place.file == 0 ? 0 : pcow::kWindowSize;
  if (place.offset < header) return kMembers + place.file * pcow::kWindowSize + place.offset;
  const uint64_t inside = place.offset - header;
  return (inside / unit * files + place.file) * unit + inside % unit;
}

uint64_t TemplateImage::end() const {
  if (striping.files == 1) return file_sizes.front();
  return file_sizes.front() / (pcow::kSegmentSize / striping.files) * pcow::kSegmentSize;
}

const std::vector<TemplateImage>& template_images() {
  static const std::vector<TemplateImage> kImages = make_all();
  return kImages;
}

}  // namespace fuzz
