// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <gtest/gtest.h>
#include <pcow/image.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace pcow {

// A window, mapped privately, and what it has to show.
class MappedWindow {
 public:
  MappedWindow(const Image& image, ChunkIndex chunk, FilePlace window)
      : chunk_(chunk), window_(window), shown_(kChunkSize) {
    void* at = mmap(nullptr, kChunkSize, PROT_READ, MAP_PRIVATE, image.file(window.file).fd,
                    static_cast<off_t>(window.offset));
    EXPECT_NE(at, MAP_FAILED);
    if (at != MAP_FAILED) bytes_ = static_cast<std::byte*>(at);
    EXPECT_TRUE(image.read(chunk.value * kChunkSize, shown_));
    written_ = image.logged_pages(chunk).value();
  }
  ~MappedWindow() {
    if (bytes_ != nullptr) munmap(bytes_, kChunkSize);
  }
  MappedWindow(const MappedWindow&) = delete;
  MappedWindow& operator=(const MappedWindow&) = delete;

  // Whoever maps it has a copy from now on.
  void note_write(uint64_t page) {
    if (chunk_of(PageIndex(page)) == chunk_) written_.set(page_in_chunk(PageIndex(page)));
  }
  void note_writes(uint64_t first, uint64_t count) {
    const uint64_t here = first_page(chunk_).value;
    const uint64_t end = std::min(first + count, here + kPagesPerChunk);
    for (uint64_t page = std::max(first, here); page < end; ++page) note_write(page);
  }
  bool lies_in(const std::vector<FilePlace>& segment) const {
    return place_in_segment(segment, chunk_in_segment(chunk_)) == window_;
  }
  void check() const {
    for (uint64_t page = 0; bytes_ != nullptr && page < kPagesPerChunk; ++page) {
      if (written_[page]) continue;
      ASSERT_EQ(std::memcmp(bytes_ + page * kPageSize, shown_.data() + page * kPageSize, kPageSize),
                0)
          << "page " << page << " of chunk " << chunk_.value;
    }
  }

 private:
  ChunkIndex chunk_;
  FilePlace window_;
  std::vector<std::byte> shown_;
  PageMap written_;
  std::byte* bytes_ = nullptr;
};

}  // namespace pcow
