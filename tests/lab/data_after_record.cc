// SPDX-License-Identifier: BSD-3-Clause
//
// A broken image for the power-cut test: it makes the record of an epoch durable before the data
// that the record vouches for. Linked into a libtiering of its own; the test has to catch it.
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/tiering/image_decorator.h"
#include "tiering/image_source.h"

namespace tiering {
namespace {

// How long the record is ahead of the data: long enough to be hit by a cut at a random moment.
constexpr std::chrono::milliseconds kAhead{1500};

class DataAfterRecord final : public testing::ImageDecorator {
 public:
  explicit DataAfterRecord(std::unique_ptr<pcow::Image> inner)
      : ImageDecorator(*inner), owned_(std::move(inner)) {}

  pcow::Result<pcow::WriteReport> write_pages(std::span<const pcow::PageWrite> pages) override {
    pcow::WriteReport report;
    // One page goes the right way, or there would be nothing to commit.
    const size_t now = late_.empty() ? 1 : 0;
    if (now > 0) {
      PCOW_TRY_ASSIGN(report, ImageDecorator::write_pages(pages.first(now)));
    }
    for (const pcow::PageWrite& page : pages.subspan(now)) {
      auto copy = std::make_unique<Page>();
      std::memcpy(copy->bytes, page.data, pcow::kPageSize);
      late_.emplace_back(page.page, std::move(copy));
      ++report.written_pages;
    }
    return report;
  }

  pcow::Result<pcow::Epoch> commit() override {
    PCOW_TRY_ASSIGN(const pcow::Epoch epoch, ImageDecorator::commit());
    if (late_.empty()) return epoch;
    std::this_thread::sleep_for(kAhead);
    std::vector<pcow::PageWrite> writes;
    writes.reserve(late_.size());
    for (const auto& [index, page] : late_) writes.push_back({index, page->bytes});
    PCOW_TRY(ImageDecorator::write_pages(writes));
    late_.clear();
    return epoch;
  }

 private:
  struct Page {
    std::byte bytes[pcow::kPageSize];
  };

  std::unique_ptr<pcow::Image> owned_;
  std::vector<std::pair<pcow::PageIndex, std::unique_ptr<Page>>> late_;
};

}  // namespace

pcow::Result<std::unique_ptr<pcow::Image>> open_image(const std::string& path,
                                                      const pcow::OpenOptions& options) {
  PCOW_TRY_ASSIGN(auto image, pcow::Image::open(path, options));
  return std::make_unique<DataAfterRecord>(std::move(image));
}

}  // namespace tiering
