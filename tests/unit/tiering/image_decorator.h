// SPDX-License-Identifier: BSD-3-Clause
//
// An Image that forwards to another one, counts, and fails on demand.
#pragma once

#include <pcow/image.h>
#include <algorithm>
#include <optional>

namespace tiering::testing {

class ImageDecorator : public pcow::Image {
 public:
  explicit ImageDecorator(pcow::Image& inner) : inner_(inner) {}

  // The nth call from now of write_pages(), discard(), log_pages(), fold() or commit() fails; 0:
  // none.
  uint64_t fail_write_in = 0;
  uint64_t fail_discard_in = 0;
  uint64_t fail_log_in = 0;
  uint64_t fail_deletion_in = 0;
  uint64_t fail_fold_in = 0;
  uint64_t fail_commit_in = 0;
  pcow::Code failure = pcow::Code::kIo;
  uint64_t log_size_max = ~uint64_t{0};
  // A failing write_pages() has stored this many of its pages.
  size_t stored_before_failure = 0;
  std::optional<pcow::Granularity> granularity;
  uint64_t pages_written = 0;

  pcow::Result<void> close() override { return inner_.close(); }
  pcow::ImageInfo info() const override {
    pcow::ImageInfo info = inner_.info();
    info.granularity = granularity.value_or(info.granularity);
    return info;
  }
  uint64_t virtual_size() const override { return inner_.virtual_size(); }
  uint32_t file_count() const override { return inner_.file_count(); }
  pcow::MappedFile file(uint32_t index) const override {
    pcow::MappedFile file = inner_.file(index);
    if (granularity) file.dax = *granularity != pcow::Granularity::kPage;
    return file;
  }
  pcow::Result<pcow::GibLayout> layout(pcow::GibIndex gib) const override {
    return inner_.layout(gib);
  }
  pcow::Result<pcow::PageMap> page_map(pcow::ChunkIndex chunk) const override {
    return inner_.page_map(chunk);
  }
  pcow::Result<void> map(uint64_t start, uint64_t length,
                         const std::function<void(const pcow::MapExtent&)>& fn) const override {
    return inner_.map(start, length, fn);
  }
  pcow::Result<void> read(uint64_t offset, std::span<std::byte> out) const override {
    return inner_.read(offset, out);
  }
  pcow::Result<pcow::WriteReport> write_pages(std::span<const pcow::PageWrite> pages) override {
    if (fail_write_in > 0 && --fail_write_in == 0) {
      if (stored_before_failure > 0) {
        const size_t count = std::min(stored_before_failure, pages.size());
        if (auto stored = inner_.write_pages(pages.first(count)); !stored) return stored;
      }
      return pcow::make_error(failure, "injected failure of write_pages");
    }
    pages_written += pages.size();
    return inner_.write_pages(pages);
  }
  pcow::Result<uint64_t> discard(pcow::PageIndex first, uint64_t count) override {
    if (fail_discard_in > 0 && --fail_discard_in == 0) {
      return pcow::make_error(failure, "injected failure of discard");
    }
    return inner_.discard(first, count);
  }
  pcow::Result<uint64_t> fold(pcow::ChunkIndex first, uint64_t count) override {
    if (fail_fold_in > 0 && --fail_fold_in == 0) {
      return pcow::make_error(failure, "injected failure of fold");
    }
    return inner_.fold(first, count);
  }
  pcow::Result<pcow::Epoch> commit() override {
    if (fail_commit_in > 0 && --fail_commit_in == 0) {
      return pcow::make_error(failure, "injected failure of commit");
    }
    return inner_.commit();
  }
  pcow::Result<void> resize(uint64_t size, bool shrink) override {
    return inner_.resize(size, shrink);
  }
  pcow::Result<std::vector<pcow::SnapshotInfo>> snapshots() const override {
    return inner_.snapshots();
  }
  pcow::Result<void> create_snapshot(std::string_view name) override {
    return inner_.create_snapshot(name);
  }
  pcow::Result<void> delete_snapshot(std::string_view name) override {
    return inner_.delete_snapshot(name);
  }
  pcow::Result<void> begin_deletion(std::string_view name) override {
    return inner_.begin_deletion(name);
  }
  pcow::Result<pcow::DeletionReport> continue_deletion(uint64_t pages_max,
                                                       const pcow::SegmentInUse& in_use) override {
    if (fail_deletion_in > 0 && --fail_deletion_in == 0) {
      return pcow::make_error(failure, "injected failure of continue_deletion");
    }
    return inner_.continue_deletion(pages_max, in_use);
  }
  pcow::Result<void> apply_snapshot(std::string_view name) override {
    return inner_.apply_snapshot(name);
  }
  pcow::Result<void> rebase(const std::optional<pcow::Base>& base,
                            const pcow::Progress& progress) override {
    return inner_.rebase(base, progress);
  }
  pcow::Result<void> set_base(const std::optional<pcow::Base>& base) override {
    return inner_.set_base(base);
  }
  pcow::Result<void> commit_to_base(bool keep_pages, const pcow::Progress& progress) override {
    return inner_.commit_to_base(keep_pages, progress);
  }
  pcow::Result<pcow::LogReport> log_pages(std::span<const pcow::PageWrite> pages) override {
    if (fail_log_in > 0 && --fail_log_in == 0) {
      return pcow::make_error(failure, "injected failure of log_pages");
    }
    return inner_.log_pages(pages);
  }
  pcow::Result<pcow::CheckpointReport> checkpoint(uint64_t pages_max) override {
    return inner_.checkpoint(pages_max);
  }
  pcow::Result<pcow::PageMap> logged_pages(pcow::ChunkIndex chunk) const override {
    return inner_.logged_pages(chunk);
  }
  pcow::Result<void> restart_epoch(uint64_t log_size) override {
    return inner_.restart_epoch(log_size);
  }
  pcow::LogState log_state() const override {
    pcow::LogState state = inner_.log_state();
    state.size_max = std::min(state.size_max, log_size_max);
    return state;
  }
  pcow::Result<uint64_t> reclaim_unowned() override { return inner_.reclaim_unowned(); }

 private:
  pcow::Image& inner_;
};

}  // namespace tiering::testing
