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
      : file_(tools::value_or_fail(pcow::File::open(path, pcow::File::Mode::kCreate))) {
    tools::value_or_fail(file_.extend(size));
  }

  // Runs of pages that are not zero.
  void data(uint64_t offset, std::span<const std::byte> pages) override {
    while (!pages.empty()) {
      const bool zero = begins_with_zero_page(pages);
      size_t length = 0;
      while (length < pages.size() && begins_with_zero_page(pages.subspan(length)) == zero) {
        length += std::min<size_t>(pcow::kPageSize, pages.size() - length);
      }
      if (!zero) {
        const iovec part = {const_cast<std::byte*>(pages.data()), length};  // not const-correct
        tools::value_or_fail(file_.write(offset, {&part, 1}));
      }
      offset += length;
      pages = pages.subspan(length);
    }
    end_ = offset;
  }

  void hole(uint64_t offset, uint64_t length) override { end_ = offset + length; }

  void finish() override { tools::value_or_fail(file_.set_size(end_)); }

 private:
  // What is left of a page is stored.
  static bool begins_with_zero_page(std::span<const std::byte> pages) {
    return pages.size() >= pcow::kPageSize && pcow::is_zero_page(pages.data());
  }

  pcow::File file_;
  uint64_t end_ = 0;
};

class StreamWriter : public Writer {
 public:
  StreamWriter(int fd, std::string name) : fd_(fd), name_(std::move(name)) {}

  void data(uint64_t, std::span<const std::byte> pages) override {
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
};

}  // namespace

std::unique_ptr<Writer> create_raw_writer(const std::string& path, uint64_t size) {
  return std::make_unique<RawWriter>(path, size);
}

std::unique_ptr<Writer> make_stream_writer(int fd, const std::string& name) {
  return std::make_unique<StreamWriter>(fd, name);
}

}  // namespace pcow_img
