// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/image_fixture.h"

#include <cstring>
#include <fstream>

namespace test {

Page pattern_page(uint64_t value) {
  Page page(pcow::kPageSize);
  for (uint64_t word = 0; word < page.size() / sizeof(uint64_t); ++word) {
    const uint64_t mixed = (value + 1) * 0x9e3779b97f4a7c15u + word;
    std::memcpy(page.data() + word * sizeof(mixed), &mixed, sizeof(mixed));
  }
  return page;
}

std::unique_ptr<pcow::Image> open_image(const std::string& path, pcow::Access access) {
  pcow::OpenOptions options;
  options.access = access;
  options.base = pcow::BaseAccess::kFollow;
  auto image = pcow::Image::open(path, options);
  if (!image) {
    ADD_FAILURE() << image.error().message;
    return nullptr;
  }
  return *std::move(image);
}

void create_image(const std::string& path, uint64_t virtual_size, uint64_t log_size) {
  pcow::CreateOptions options;
  options.virtual_size = virtual_size;
  options.log_size = log_size;
  ASSERT_OK(pcow::Image::create(path, options));
}

void write_page(pcow::Image& image, uint64_t page, const Page& data) {
  const pcow::PageWrite write{pcow::PageIndex(page), data.data()};
  ASSERT_OK(image.write_pages(std::span(&write, 1)));
}

Page read_page(const pcow::Image& image, uint64_t page) {
  Page data(pcow::kPageSize);
  const auto result = image.read(page * pcow::kPageSize, data);
  EXPECT_TRUE(result.has_value()) << result.error().message;
  return data;
}

void expect_clean_check(const std::string& path, bool leaks_allowed) {
  const auto report = pcow::check_image(path, false, {});
  ASSERT_OK(report);
  EXPECT_EQ(report->corruptions, 0u);
  if (!leaks_allowed) {
    EXPECT_EQ(report->leaked_bytes, 0u);
  }
  for (size_t i = 0; i < report->messages.size() && i < 5; ++i) {
    if (report->corruptions > 0 || !leaks_allowed) ADD_FAILURE() << report->messages[i];
  }
}

std::string file_bytes(const std::string& path, uint64_t from, uint64_t length) {
  std::ifstream file(path, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(from));
  std::string bytes(length, '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(length));
  bytes.resize(static_cast<size_t>(file.gcount()));
  return bytes;
}

void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.flush().good());
}

void patch_file(const std::string& path, uint64_t offset, const std::string& bytes) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good());
}

pcow::format::Superblock read_superblock(const std::string& path, uint64_t offset) {
  pcow::format::Superblock sb{};
  const std::string bytes = file_bytes(path, offset, sizeof(sb));
  std::memcpy(&sb, bytes.data(), bytes.size());
  return sb;
}

void forge_superblocks(const std::string& path,
                       const std::function<void(pcow::format::Superblock&)>& change) {
  for (const uint64_t offset : pcow::format::kSuperblockOffset) {
    pcow::format::Superblock sb = read_superblock(path, offset);
    change(sb);
    pcow::format::seal_superblock(sb);
    patch_file(path, offset, std::string(reinterpret_cast<const char*>(&sb), sizeof(sb)));
  }
}

pcow::format::Block read_block(const std::string& path, uint64_t offset) {
  pcow::format::Block block;
  const std::string bytes = file_bytes(path, offset, pcow::kPageSize);
  std::memcpy(block.bytes.data(), bytes.data(), bytes.size());
  return block;
}

void forge_block(const std::string& path, uint64_t offset,
                 const std::function<void(pcow::format::Block&)>& change) {
  pcow::format::Block block = read_block(path, offset);
  change(block);
  pcow::format::seal(block);
  patch_file(path, offset,
             std::string(reinterpret_cast<const char*>(block.bytes.data()), pcow::kPageSize));
}

}  // namespace test
