// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/template_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstring>

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

std::vector<TemplatePage> read_pages(int fd, uint64_t file_size) {
  std::vector<TemplatePage> pages;
  for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
    const off_t end = lseek(fd, at, SEEK_HOLE);
    at -= at % kPageStep;
    for (; at < end && static_cast<uint64_t>(at) < file_size; at += kPageStep) {
      TemplatePage page;
      page.offset = static_cast<uint64_t>(at);
      require(pread(fd, page.content.bytes.data(), kPageSize, at) == kPageSize, "pread works");
      if (page.content == Block{}) continue;
      page.role = role_of(page, pages);
      pages.push_back(page);
    }
  }
  return pages;
}

std::vector<LogPlace> find_records(int fd) {
  std::vector<LogPlace> records;
  format::Superblock sb{};
  require(pread(fd, &sb, sizeof(sb), 0) == sizeof(sb), "pread works");
  for (uint64_t lsn = sb.log_tail;;) {
    const uint64_t place = sb.log_offset + lsn % sb.log_size;
    format::LogRecord record{};
    require(pread(fd, &record, sizeof(record), static_cast<off_t>(place)) == sizeof(record),
            "pread works");
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
  const std::string path = dir.file("template.pcow");
  recipe.make(path);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0, "the template opens");
  TemplateImage image;
  image.name = recipe.name;
  image.file_size = static_cast<uint64_t>(lseek(fd, 0, SEEK_END));
  image.pages = read_pages(fd, image.file_size);
  image.records = find_records(fd);
  ::close(fd);
  return image;
}

std::vector<TemplateImage> make_all() {
  std::vector<TemplateImage> images;
  for (const Recipe& recipe : recipes()) images.push_back(make(recipe));
  return images;
}

}  // namespace

const std::vector<TemplateImage>& template_images() {
  static const std::vector<TemplateImage> kImages = make_all();
  return kImages;
}

}  // namespace fuzz
