// SPDX-License-Identifier: BSD-3-Clause
//
// The engine behind pcow::Image. Its parts: image_create.cc, image_open.cc (open, recovery, close),
// image_read.cc (look-ups), image_write.cc (pages, epochs, space), image_resize.cc.
//
// Invariants
//  1. Metadata changes only in transactions: seal, log, then store (RedoLog, MetadataStore).
//  2. Ownership of a page is durable in the log before its data is stored; so a page that is not
//     owned never holds data, and any window may be mapped whole (the zero rule).
//  3. Space for everything a write stores is reserved before its transaction is logged; a full
//     medium is found out while nothing has changed yet.
//  4. After a failed store to the medium the file's metadata may be half-way between two states:
//     `failed_` refuses further writes, and the next open replays the log.
#pragma once

#include <pcow/image.h>
#include <optional>
#include <utility>
#include <vector>

#include "pcow/engine/allocator.h"
#include "pcow/engine/chunk_table.h"
#include "pcow/engine/metadata_store.h"
#include "pcow/engine/redo_log.h"
#include "pcow/engine/superblock_store.h"
#include "pcow/media/media.h"

namespace pcow {

class ImageImpl final : public Image {
 public:
  static Result<std::unique_ptr<Image>> open_impl(const std::string& path,
                                                  const OpenOptions& options);

  Result<void> close() override;
  ImageInfo info() const override;
  uint64_t virtual_size() const override { return virtual_size_; }
  int fd() const override { return media_->file().fd(); }
  bool hole_reads_allocate() const override { return media_->file().on_tmpfs(); }

  Result<std::optional<SegmentExtent>> segment(GibIndex gib) const override;
  Result<PageMap> page_map(ChunkIndex chunk) const override;
  Result<void> map(uint64_t start, uint64_t length,
                   const std::function<void(const MapExtent&)>& fn) const override;
  Result<void> read(uint64_t offset, std::span<std::byte> out) const override;

  Result<WriteReport> write_pages(std::span<const PageWrite> pages) override;
  Result<Epoch> commit() override;
  Result<void> resize(uint64_t virtual_size, bool shrink) override;
  Result<uint64_t> reclaim_unowned() override;

 private:
  // A chunk's entry and, when it owns pages, which.
  struct ChunkLookup {
    format::ChunkEntry entry{};
    format::PageMapBytes map{};
  };
  struct WritePlan;
  using Range = std::pair<uint64_t, uint64_t>;  // file offset, length

  ImageImpl(std::unique_ptr<Media> media, SuperblockStore superblocks, Access access);

  // --- opening (image_open.cc)
  Result<void> load(const OpenOptions& options, bool locked);
  Result<void> validate_root(uint64_t file_size);
  Result<void> validate_patches() const;
  Result<void> recover(const LogContent& log);
  Result<void> begin_writing();
  Result<void> empty_log_and_mark(uint32_t state, bool new_generation);

  // --- reading (image_read.cc)
  Result<const format::RootBlock*> root() const;
  Result<const format::LayerRecord*> layer() const;
  Result<format::LayerRecord*> modify_layer();  // inside a transaction
  uint64_t image_end() const;
  // The chunk table of a GiB, if its segment is reserved.
  Result<std::optional<ChunkTable>> chunk_table(GibIndex gib) const;
  Result<ChunkLookup> look_up(ChunkTable& table, ChunkIndex chunk) const;

  // --- writing (image_write.cc)
  Result<void> check_writable() const;
  Result<ChunkTable> chunk_table_for_writing(GibIndex gib);
  Result<void> write_batch(std::span<const PageWrite> pages, WriteReport& report);
  Result<void> plan_writes(std::span<const PageWrite> pages, WritePlan& plan);
  Result<void> plan_chunk(std::span<const PageWrite> pages, ChunkTable* table,
                          const ChunkEntries* entries, WritePlan& plan);
  Result<void> reserve_all(const WritePlan& plan);
  Result<void> count_pages(uint64_t added, uint64_t removed);
  // Ends the transaction of the store: log, store, make room in the log when it is half full.
  Result<void> commit_transaction();
  Result<void> checkpoint_log();
  // The store's transaction is dropped unless commit_transaction() got it into the log.
  Result<void> with_transaction(const std::function<Result<void>()>& body);

  // --- resizing (image_resize.cc)
  Result<void> create_layer_tables(uint64_t old_size, uint64_t new_size);
  Result<void> drop_chunks(ChunkIndex first, ChunkIndex end);
  Result<void> finish_trim();
  Result<uint64_t> reclaim_window(uint64_t file_offset, const PageMap& owned);

  std::unique_ptr<Media> media_;
  SuperblockStore superblocks_;
  Access access_;
  mutable MetadataStore store_;  // a cache: reading through it does not change the image
  RedoLog log_;
  Allocator allocator_;
  uint64_t virtual_size_ = 0;
  Epoch durable_epoch_;
  bool was_clean_ = true;
  bool recovered_ = false;
  bool writing_ = false;  // marked open for writing
  bool closed_ = false;
  bool failed_ = false;
  bool written_since_commit_ = false;
};

}  // namespace pcow
