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

  // Whole pages, in ascending order and without gaps; of the last one, what lies beyond the size is
  // left out. Pages of zeros take no space where the format allows it.
  virtual void data(uint64_t offset, std::span<const std::byte> pages) = 0;
  // Pages that read as zeros, with nothing to look at.
  virtual void hole(uint64_t offset, uint64_t length) = 0;
  // After the last page.
  virtual void finish() = 0;
};

// An image without content, open for writing; it grows when more is written, and finish() cuts it
// to what was, and closes it. `name` is for messages.
std::unique_ptr<Writer> make_pcow_writer(std::unique_ptr<pcow::Image> image, std::string name);
// A sparse file of `size` bytes at `path`, which must not exist.
std::unique_ptr<Writer> create_raw_writer(const std::string& path, uint64_t size);
// A stream of `size` bytes. `name` is for messages. The descriptor is borrowed.
std::unique_ptr<Writer> make_stream_writer(int fd, const std::string& name, uint64_t size);

}  // namespace pcow_img
