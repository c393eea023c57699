// SPDX-License-Identifier: BSD-3-Clause
//
// Helpers for tests that make and look at images.
#pragma once

#include <gtest/gtest.h>
#include <pcow/image.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pcow/format/block.h"
#include "tests/support/temp_dir.h"

// Stops the test with the error's message when a Result is one.
#define ASSERT_OK(expr)                                       \
  do {                                                        \
    const auto& assert_ok_result = (expr);                    \
    ASSERT_TRUE(assert_ok_result.has_value())                 \
        << #expr << ": " << assert_ok_result.error().message; \
  } while (false)

namespace test {

using Page = std::vector<std::byte>;

// A page of data that depends on `value` everywhere; never all zero.
Page pattern_page(uint64_t value);

std::unique_ptr<pcow::Image> open_image(const std::string& path,
                                        pcow::Access access = pcow::Access::kReadWrite);
void create_image(const std::string& path, uint64_t virtual_size, uint64_t log_size = 0);
// Pages of one write, which ascend, with their content.
class PageBatch {
 public:
  void add(uint64_t page, Page content) {
    content_.push_back(std::move(content));
    writes_.push_back({pcow::PageIndex(page), content_.back().data()});
  }
  std::span<const pcow::PageWrite> writes() const { return writes_; }

 private:
  std::vector<Page> content_;  // whose bytes stay where they are
  std::vector<pcow::PageWrite> writes_;
};
// Writes one page and fails the test if that fails.
void write_page(pcow::Image& image, uint64_t page, const Page& data);
Page read_page(const pcow::Image& image, uint64_t page);
// The independent checker finds nothing: no corruption and, unless allowed, no leak.
void expect_clean_check(const std::string& path, bool leaks_allowed = false);
// All bytes of a file, holes included.
std::string file_bytes(const std::string& path, uint64_t from, uint64_t length);
void write_file(const std::string& path, const std::string& bytes);  // a new one, or over it
void patch_file(const std::string& path, uint64_t offset, const std::string& bytes);
pcow::format::Superblock read_superblock(const std::string& path, uint64_t offset);
// Changes both superblock copies and gives them valid checksums again.
void forge_superblocks(const std::string& path,
                       const std::function<void(pcow::format::Superblock&)>& change);
// The same for a block of metadata.
pcow::format::Block read_block(const std::string& path, uint64_t offset);
void forge_block(const std::string& path, uint64_t offset,
                 const std::function<void(pcow::format::Block&)>& change);

}  // namespace test
