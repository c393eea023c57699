// SPDX-License-Identifier: BSD-3-Clause
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "tools/common/failure.h"
#include "tools/pcow-img/content.h"
#include "tools/pcow-img/input_file.h"

namespace pcow_img {
namespace {

class RawContent : public Content {
 public:
  explicit RawContent(InputFile file) : Content(file.size()), file_(std::move(file)) {}

 protected:
  Extent extent_impl(uint64_t at) const override {
    const auto offset = static_cast<off_t>(at);
    const off_t data = lseek(file_.fd(), offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {at, size() - at, false};
    // Where the file system cannot tell, all of it may be data.
    if (data < 0) return {at, size() - at, true};
    if (data > offset) return {at, std::min(static_cast<uint64_t>(data), size()) - at, false};
    const off_t hole = lseek(file_.fd(), offset, SEEK_HOLE);
    const uint64_t end = hole > offset ? static_cast<uint64_t>(hole) : size();
    return {at, std::min(end, size()) - at, true};
  }

  void read_impl(uint64_t offset, std::span<std::byte> out) const override {
    file_.read(offset, out);
  }

 private:
  InputFile file_;
};

}  // namespace

std::unique_ptr<Content> open_raw_content(const std::string& file) {
  return std::make_unique<RawContent>(InputFile(file));
}

}  // namespace pcow_img
