// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/guarded_image.h"

#include "pcow/base/no_memory.h"

namespace pcow {

Result<void> GuardedImage::close() {
  return memory_checked(path_, [&] { return image_->close(); });
}

Result<GibLayout> GuardedImage::layout(GibIndex gib) const {
  return memory_checked(path_, [&] { return image_->layout(gib); });
}

Result<PageMap> GuardedImage::page_map(ChunkIndex chunk) const {
  return memory_checked(path_, [&] { return image_->page_map(chunk); });
}

Result<void> GuardedImage::map(uint64_t start, uint64_t length,
                               const std::function<void(const MapExtent&)>& fn) const {
  return memory_checked(path_, [&] { return image_->map(start, length, fn); });
}

Result<void> GuardedImage::read(uint64_t offset, std::span<std::byte> out) const {
  return memory_checked(path_, [&] { return image_->read(offset, out); });
}

Result<WriteReport> GuardedImage::write_pages(std::span<const PageWrite> pages) {
  return memory_checked(path_, [&] { return image_->write_pages(pages); });
}

Result<uint64_t> GuardedImage::discard(PageIndex first, uint64_t count) {
  return memory_checked(path_, [&] { return image_->discard(first, count); });
}

Result<uint64_t> GuardedImage::fold(ChunkIndex first, uint64_t count) {
  return memory_checked(path_, [&] { return image_->fold(first, count); });
}

Result<Epoch> GuardedImage::commit() {
  return memory_checked(path_, [&] { return image_->commit(); });
}

Result<void> GuardedImage::resize(uint64_t virtual_size, bool shrink) {
  return memory_checked(path_, [&] { return image_->resize(virtual_size, shrink); });
}

Result<uint64_t> GuardedImage::reclaim_unowned() {
  return memory_checked(path_, [&] { return image_->reclaim_unowned(); });
}

Result<LogReport> GuardedImage::log_pages(std::span<const PageWrite> pages) {
  return memory_checked(path_, [&] { return image_->log_pages(pages); });
}

Result<void> GuardedImage::restart_epoch(uint64_t log_size) {
  return memory_checked(path_, [&] { return image_->restart_epoch(log_size); });
}

Result<CheckpointReport> GuardedImage::checkpoint(uint64_t pages_max) {
  return memory_checked(path_, [&] { return image_->checkpoint(pages_max); });
}

Result<PageMap> GuardedImage::logged_pages(ChunkIndex chunk) const {
  return memory_checked(path_, [&] { return image_->logged_pages(chunk); });
}

Result<std::vector<SnapshotInfo>> GuardedImage::snapshots() const {
  return memory_checked(path_, [&] { return image_->snapshots(); });
}

Result<void> GuardedImage::create_snapshot(std::string_view name) {
  return memory_checked(path_, [&] { return image_->create_snapshot(name); });
}

Result<void> GuardedImage::delete_snapshot(std::string_view name) {
  return memory_checked(path_, [&] { return image_->delete_snapshot(name); });
}

Result<void> GuardedImage::begin_deletion(std::string_view name) {
  return memory_checked(path_, [&] { return image_->begin_deletion(name); });
}

Result<DeletionReport> GuardedImage::continue_deletion(uint64_t pages_max,
                                                       const SegmentInUse& in_use) {
  return memory_checked(path_, [&] { return image_->continue_deletion(pages_max, in_use); });
}

Result<void> GuardedImage::apply_snapshot(std::string_view name) {
  return memory_checked(path_, [&] { return image_->apply_snapshot(name); });
}

Result<void> GuardedImage::rebase(const std::optional<Base>& base, const Progress& progress) {
  return memory_checked(path_, [&] { return image_->rebase(base, progress); });
}

Result<void> GuardedImage::set_base(const std::optional<Base>& base) {
  return memory_checked(path_, [&] { return image_->set_base(base); });
}

Result<void> GuardedImage::commit_to_base(bool keep_pages, const Progress& progress) {
  return memory_checked(path_, [&] { return image_->commit_to_base(keep_pages, progress); });
}

}  // namespace pcow
