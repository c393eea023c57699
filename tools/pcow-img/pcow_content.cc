// SPDX-License-Identifier: BSD-3-Clause
#include <algorithm>
#include <vector>

#include "tools/common/failure.h"
#include "tools/pcow-img/commands.h"
#include "tools/pcow-img/content.h"

namespace pcow_img {
namespace {

// An image is asked for its runs a GiB at a time, so that what is held stays small.
class PcowContent : public Content {
 public:
  explicit PcowContent(std::unique_ptr<pcow::Image> image)
      : Content(image->virtual_size()), image_(std::move(image)) {}

 protected:
  Extent extent_impl(uint64_t at) const override {
    if (runs_.empty() || at < runs_.front().start || at >= end_of(runs_.back())) load_runs(at);
    const auto after =
        std::upper_bound(runs_.begin(), runs_.end(), at,
                         [](uint64_t offset, const Extent& run) { return offset < run.start; });
    const Extent& run = *(after - 1);
    return {at, end_of(run) - at, run.data};
  }

  void read_impl(uint64_t offset, std::span<std::byte> out) const override {
    tools::value_or_fail(image_->read(offset, out));
  }

 private:
  static uint64_t end_of(const Extent& run) { return run.start + run.length; }

  void load_runs(uint64_t at) const {
    runs_.clear();
    const uint64_t length = std::min(size() - at, pcow::kGiB - at % pcow::kGiB);
    tools::value_or_fail(image_->map(at, length, [this](const pcow::MapExtent& run) {
      runs_.push_back({run.start, run.length, run.data});
    }));
  }

  std::unique_ptr<pcow::Image> image_;
  mutable std::vector<Extent> runs_;  // of the part looked at last; ascending
};

}  // namespace

std::unique_ptr<Content> open_pcow_content(const std::string& file, const Consent& consent) {
  return std::make_unique<PcowContent>(open_for_reading(file, consent));
}

}  // namespace pcow_img
