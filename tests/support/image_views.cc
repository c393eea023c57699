// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/image_views.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace test {
namespace {

View view_of(const pcow::Image& image) {
  View view;
  view.size = image.virtual_size();
  const auto read = [&](const pcow::MapExtent& run) {
    for (uint64_t at = run.start; run.data && at < run.start + run.length; at += pcow::kPageSize) {
      view.pages[at / pcow::kPageSize] = read_page(image, at / pcow::kPageSize);
    }
  };
  const auto mapped = image.map(0, image.virtual_size(), read);
  EXPECT_TRUE(mapped.has_value()) << mapped.error().message;
  return view;
}

}  // namespace

Views views_of(const std::string& path) {
  Views views;
  pcow::OpenOptions options;
  options.replay_in_memory = true;
  const auto image = pcow::Image::open(path, options);
  if (!image) {
    ADD_FAILURE() << image.error().message;
    return views;
  }
  views[""] = view_of(**image);
  const auto snapshots = (*image)->snapshots();
  EXPECT_TRUE(snapshots.has_value());
  for (const pcow::SnapshotInfo& snapshot : *snapshots) {
    options.snapshot = snapshot.name;
    const auto shown = pcow::Image::open(path, options);
    EXPECT_TRUE(shown.has_value());
    if (shown) views[snapshot.name] = view_of(**shown);
  }
  return views;
}

FileContent content_of(const std::string& path) {
  FileContent content;
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status {};
  EXPECT_EQ(fstat(fd, &status), 0);
  content.blocks = status.st_blocks;
  for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
    const off_t end = lseek(fd, at, SEEK_HOLE);
    for (; at < end; at += static_cast<off_t>(pcow::kPageSize)) {
      auto& bytes = content.pages[static_cast<uint64_t>(at)].bytes;
      EXPECT_GT(pread(fd, bytes.data(), bytes.size(), at), 0);
    }
  }
  close(fd);
  return content;
}

void flip_bit(const std::string& path, uint64_t offset) {
  std::string byte = file_bytes(path, offset, 1);
  ASSERT_EQ(byte.size(), 1u);
  byte[0] = static_cast<char>(byte[0] ^ 4);
  patch_file(path, offset, byte);
}

}  // namespace test
