// SPDX-License-Identifier: BSD-3-Clause
//
// Guest memory to read from, whatever file format holds it. Errors are thrown as tools::Failure.
#pragma once

#include <pcow/image.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "tools/pcow-img/commands.h"

namespace pcow_img {

// A run of pages that are alike: stored somewhere, or not stored and therefore zero.
struct Extent {
  uint64_t start = 0;   // guest bytes
  uint64_t length = 0;  // bytes, > 0
  bool data = false;
};

class Content {
 public:
  virtual ~Content() = default;
  Content(const Content&) = delete;
  Content& operator=(const Content&) = delete;

  uint64_t size() const { return size_; }
  // size() rounded up to whole pages; what lies beyond size() reads as zeros.
  uint64_t padded_size() const { return pcow::round_up(size_, pcow::kPageSize); }

  // The run of whole pages that begins at `at`. The next one may be alike.
  // REQUIRES: `at` is a multiple of the page size below padded_size().
  Extent extent(uint64_t at) const;
  // REQUIRES: [offset, offset + out.size()) inside the padded size.
  void read(uint64_t offset, std::span<std::byte> out) const;

 protected:
  explicit Content(uint64_t size) : size_(size) {}
  // As extent() and read(), inside size(); runs may begin and end anywhere.
  virtual Extent extent_impl(uint64_t at) const = 0;
  virtual void read_impl(uint64_t offset, std::span<std::byte> out) const = 0;

 private:
  const uint64_t size_;
};

// Opens a file in one of the formats that this program reads itself: "pcow", "raw" (a regular file
// or a block device) or "nbjl" (the published pcow). An empty format: what the file begins with
// decides, and what looks like a format of qemu-img's is refused, because reading it as raw is
// hardly ever meant.
std::unique_ptr<Content> open_content(const std::string& file, const std::string& format,
                                      const Consent& consent);
// The same, one by one.
std::unique_ptr<Content> open_pcow_content(const std::string& file, const Consent& consent);
std::unique_ptr<Content> open_raw_content(const std::string& file);
std::unique_ptr<Content> open_nbjl_content(const std::string& file);

// How much is read at a time.
inline constexpr uint64_t kCopyStep = 4 * pcow::kMiB;

}  // namespace pcow_img
