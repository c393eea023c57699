// SPDX-License-Identifier: BSD-3-Clause
#include <pcow/image.h>
#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "tools/common/failure.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/writer.h"

namespace pcow_img {
namespace {

class PcowWriter : public Writer {
 public:
  PcowWriter(std::unique_ptr<pcow::Image> image, std::string name)
      : image_(std::move(image)), name_(std::move(name)) {}

  void data(uint64_t offset, std::span<const std::byte> pages) override {
    grow_to(offset + pages.size());
    writes_.clear();
    uint64_t at = 0;
    for (; pages.size() - at >= pcow::kPageSize; at += pcow::kPageSize) {
      writes_.push_back({pcow::PageIndex((offset + at) / pcow::kPageSize), &pages[at]});
    }
    std::array<std::byte, pcow::kPageSize> last{};  // zeros behind the end
    if (at < pages.size()) {
      std::ranges::copy(pages.subspan(at), last.begin());
      writes_.push_back({pcow::PageIndex((offset + at) / pcow::kPageSize), last.data()});
    }
    tools::value_or_fail(image_->write_pages(writes_));
  }

  void hole(uint64_t offset, uint64_t length) override { grow_to(offset + length); }

  void finish() override {
    const uint64_t size =
        std::max(pcow::kMinVirtualSize, pcow::round_up(written_, pcow::kChunkSize));
    if (size < image_->virtual_size()) tools::value_or_fail(image_->resize(size, true));
    tools::value_or_fail(image_->commit());
    tools::value_or_fail(image_->close());
  }

 private:
  // A stream tells its size only by ending: twice as much each time keeps the number of steps low.
  void grow_to(uint64_t end) {
    written_ = end;
    uint64_t size = image_->virtual_size();
    if (end <= size) return;
    const uint64_t needed = pcow::round_up(end, pcow::kChunkSize);
    check_virtual_size("cannot write '" + name_ + "'", needed);
    size = std::max(needed, std::min(2 * size, pcow::kMaxVirtualSize));
    tools::value_or_fail(image_->resize(size, false));
  }

  const std::unique_ptr<pcow::Image> image_;
  const std::string name_;
  std::vector<pcow::PageWrite> writes_;
  uint64_t written_ = 0;
};

}  // namespace

std::unique_ptr<Writer> make_pcow_writer(std::unique_ptr<pcow::Image> image, std::string name) {
  return std::make_unique<PcowWriter>(std::move(image), std::move(name));
}

}  // namespace pcow_img
