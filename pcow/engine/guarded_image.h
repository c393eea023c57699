// SPDX-License-Identifier: BSD-3-Clause
//
// The image that callers get: the engine's, whose exceptions (memory that runs out, nothing else)
// it turns into errors.
#pragma once

#include <pcow/image.h>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace pcow {

class GuardedImage final : public Image {
 public:
  GuardedImage(std::string path, std::unique_ptr<Image> image)
      : path_(std::move(path)), image_(std::move(image)) {}

  ImageInfo info() const override { return image_->info(); }
  uint64_t virtual_size() const override { return image_->virtual_size(); }
  uint32_t file_count() const override { return image_->file_count(); }
  MappedFile file(uint32_t index) const override { return image_->file(index); }
  LogState log_state() const override { return image_->log_state(); }

  Result<void> close() override;
  Result<GibLayout> layout(GibIndex gib) const override;
  Result<PageMap> page_map(ChunkIndex chunk) const override;
  Result<void> map(uint64_t start, uint64_t length,
                   const std::function<void(const MapExtent&)>& fn) const override;
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override;
  Result<WriteReport> write_pages(std::span<const PageWrite> pages) override;
  Result<uint64_t> discard(PageIndex first, uint64_t count) override;
  Result<uint64_t> fold(ChunkIndex first, uint64_t count) override;
  Result<Epoch> commit() override;
  Result<void> resize(uint64_t virtual_size, bool shrink) override;
  Result<uint64_t> reclaim_unowned() override;
  Result<LogReport> log_pages(std::span<const PageWrite> pages) override;
  Result<void> restart_epoch(uint64_t log_size) override;
  Result<CheckpointReport> checkpoint(uint64_t pages_max) override;
  Result<PageMap> logged_pages(ChunkIndex chunk) const override;
  Result<std::vector<SnapshotInfo>> snapshots() const override;
  Result<void> create_snapshot(std::string_view name) override;
  Result<void> delete_snapshot(std::string_view name) override;
  Result<void> begin_deletion(std::string_view name) override;
  Result<DeletionReport> continue_deletion(uint64_t pages_max, const SegmentInUse& in_use) override;
  Result<void> apply_snapshot(std::string_view name) override;
  Result<void> rebase(const std::optional<Base>& base, const Progress& progress) override;
  Result<void> set_base(const std::optional<Base>& base) override;
  Result<void> commit_to_base(bool keep_pages, const Progress& progress) override;

 private:
  const std::string path_;
  const std::unique_ptr<Image> image_;
};

}  // namespace pcow
