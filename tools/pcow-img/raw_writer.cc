// SPDX-License-Identifier: BSD-3-Clause
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "pcow/base/zero.h"
#include "pcow/media/file.h"
#include "tools/common/failure.h"
#include "tools/pcow-img/content.h"
#include "tools/pcow-img/writer.h"

namespace pcow_img {
namespace {

class RawWriter : public Writer {
 public:
  RawWriter(const std::string& path, uint64_t size)
      : file_(tools::value_or_fail(pcow::File::open(path, pcow::File::Mode::kCreate))),
        size_(size) {
    tools::value_or_fail(file_.extend(size));
  }

  // Runs of pages that are not zero.
  void data(uint64_t offset, std::span<const std::byte> pages) override {
    while (!pages.empty()) {
      const bool zero = pcow::is_zero(pages.first(pcow::kPageSize));
      size_t length = pcow::kPageSize;
      while (length < pages.size() &&
             pcow::is_zero(pages.subspan(length, pcow::kPageSize)) == zero) {
        length += pcow::kPageSize;
      }
      if (!zero) {
        const size_t inside = std::min(length, size_ - offset);
        const iovec part = {const_cast<std::byte*>(pages.data()), inside};  // not const-correct
        tools::value_or_fail(file_.write(offset, {&part, 1}));
      }
      offset += length;
      pages = pages.subspan(length);
    }
  }

  void hole(uint64_t, uint64_t) override {}

  void finish() override {}

 private:
  pcow::File file_;
  const uint64_t size_;
};

class StreamWriter : public Writer {
 public:
  StreamWriter(int fd, std::string name, uint64_t size)
      : fd_(fd), name_(std::move(name)), size_(size) {}

  void data(uint64_t offset, std::span<const std::byte> pages) override {
    pages = pages.first(std::min(pages.size(), size_ - offset));
    while (!pages.empty()) {
      const ssize_t n = write(fd_, pages.data(), pages.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        throw tools::Failure(
            pcow::errno_error(n < 0 ? errno : EIO, "cannot write " + name_).message);
      }
      pages = pages.subspan(static_cast<size_t>(n));
    }
  }

  void hole(uint64_t offset, uint64_t length) override {
    static const std::vector<std::byte> kZeros(pcow::kMiB);
    while (length > 0) {
      const uint64_t step = std::min<uint64_t>(length, kZeros.size());
      data(offset, std::span(kZeros).first(step));
      offset += step;
      length -= step;
    }
  }

  void finish() override {}

 private:
  const int fd_;
  const std::string name_;
  const uint64_t size_;
};

}  // namespace

std::unique_ptr<Writer> create_raw_writer(const std::string& path, uint64_t size) {
  return std::make_unique<RawWriter>(path, size);
}

std::unique_ptr<Writer> make_stream_writer(int fd, const std::string& name, uint64_t size) {
  return std::make_unique<StreamWriter>(fd, name, size);
}

}  // namespace pcow_img
