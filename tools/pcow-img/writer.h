// SPDX-License-Identifier: BSD-3-Clause
//
// Where guest memory is written to, whatever the format. Errors are thrown as tools::Failure.
#pragma once

#include <pcow/image.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace pcow_img {

class Writer {
 public:
  Writer() = default;
  virtual ~Writer() = default;
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // In ascending order, without gaps, and whole pages but at the end of everything. Pages of zeros
  // take no space where the format allows it.
  virtual void data(uint64_t offset, std::span<const std::byte> pages) = 0;
  // As data() of zeros, with nothing to look at.
  virtual void hole(uint64_t offset, uint64_t length) = 0;
  // After the last page. The size is that of what was written, as far as the format has such sizes.
  virtual void finish() = 0;
};

// An image without content, open for writing; it grows when more is written, and finish() cuts it
// to what was, and closes it. `name` is for messages.
std::unique_ptr<Writer> make_pcow_writer(std::unique_ptr<pcow::Image> image, std::string name);
// A sparse file at `path`, which must not exist. `size`: what is expected, so that a file system
// that has no files that long says so first; or 0.
std::unique_ptr<Writer> create_raw_writer(const std::string& path, uint64_t size);
// A stream. `name` is for messages. The descriptor is borrowed.
std::unique_ptr<Writer> make_stream_writer(int fd, const std::string& name);

}  // namespace pcow_img
