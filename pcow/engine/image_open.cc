// SPDX-License-Identifier: BSD-3-Clause
//
// Opening, recovery and closing. Nothing is stored to the file before everything the open relies on
// has been validated, with the log laid over the file in memory.
#include <cstring>
#include <utility>

#include "pcow/base/no_memory.h"
#include "pcow/base/printable.h"
#include "pcow/base/zero.h"
#include "pcow/engine/guarded_image.h"
#include "pcow/engine/image_impl.h"

namespace pcow {
namespace {

using format::BlockType;

LogPosition log_position(const format::Superblock& sb) {
  return {sb.log_offset, sb.log_size, sb.log_generation, sb.log_tail};
}

bool in_image(uint64_t offset, uint64_t length, uint64_t align, uint64_t end) {
  return offset >= format::kRootOffset && offset % align == 0 && offset < end &&
         length <= end - offset;
}

}  // namespace

Result<std::unique_ptr<Image>> Image::open(const std::string& path, const OpenOptions& options) {
  return memory_checked(path, [&]() -> Result<std::unique_ptr<Image>> {
    OpenFiles files;
    PCOW_TRY_ASSIGN(std::unique_ptr<Image> image, ImageImpl::open_impl(path, options, files));
    return std::unique_ptr<Image>(std::make_unique<GuardedImage>(path, std::move(image)));
  });
}

Result<std::unique_ptr<Image>> ImageImpl::open_impl(const std::string& path,
                                                    const OpenOptions& options, OpenFiles& files,
                                                    const std::vector<std::string>* members) {
  const bool writable = options.access == Access::kReadWrite;
  if (writable && options.force_share) {
    return make_error(Code::kInvalid, "an image cannot be opened for writing without a lock");
  }
  PCOW_TRY_ASSIGN(File file,
                  File::open(path, writable ? File::Mode::kReadWrite : File::Mode::kRead));
  PCOW_TRY(note_file(file, files));
  const Result<void> lock = file.lock(writable);
  if (!lock && !(options.force_share && lock.error().code == Code::kBusy)) return lock.error();
  ImageFile all(std::move(file));
  PCOW_TRY_ASSIGN(SuperblockStore superblocks, SuperblockStore::load(all));
  PCOW_TRY_ASSIGN(StripeSet stripe, StripeSet::open(all, superblocks.current(), options,
                                                    lock.has_value(), files, members));
  PCOW_TRY_ASSIGN(std::unique_ptr<Media> media, Media::open(std::move(all), options.access));
  std::unique_ptr<ImageImpl> image(
      new ImageImpl(std::move(media), std::move(superblocks), std::move(stripe), options.access));
  PCOW_TRY(image->open_base(options, files));
  PCOW_TRY(image->load(options, lock.has_value()));
  image->start_ahead(options.reserve_ahead);
  return std::unique_ptr<Image>(std::move(image));
}

ImageImpl::ImageImpl(std::unique_ptr<Media> media, SuperblockStore superblocks, StripeSet stripe,
                     Access access)
    : media_(std::move(media)),
      superblocks_(std::move(superblocks)),
      stripe_(std::move(stripe)),
      access_(access),
      mapped_(mapped_files(media_->file())),
      store_(*media_, superblocks_.current().uuid),
      log_(*media_, log_position(superblocks_.current())),
      allocator_(store_, *media_),
      layers_(store_, allocator_, media_->file().path()) {}

Result<void> ImageImpl::open_base(const OpenOptions& options, OpenFiles& files) {
  const format::Superblock& sb = superblocks_.current();
  const std::string& path = media_->file().path();
  base_access_ = options.base;
  const bool present = (sb.incompatible & format::kIncompatibleBase) != 0;
  if (const std::string defect = base_defect(sb.base, present); !defect.empty()) {
    return make_error(Code::kCorrupt,
                      "'" + path + "' is damaged: " + defect + "; restore the file from a copy");
  }
  if (!present || options.base == BaseAccess::kIgnore) return {};
  if (options.base == BaseAccess::kRefuse) {
    return make_error(Code::kPermission,
                      printable("'" + path + "' is based on '" + base_path(sb.base, path) +
                                "', and was not opened: a base is read only where that is asked "
                                "for; 'pcow-img convert --allow-base' makes an image without one"));
  }
  PCOW_TRY_ASSIGN(base_, BaseImage::open(sb.base, path, options, files));
  return {};
}

Result<void> ImageImpl::load(const OpenOptions& options, bool locked) {
  const format::Superblock& sb = superblocks_.current();
  PCOW_TRY_ASSIGN(const uint64_t file_size, media_->file().size());
  if (file_size < kSegmentSize) {
    return make_error(Code::kCorrupt, "'" + media_->file().path() + "' is truncated: it has " +
                                          std::to_string(file_size) + " bytes, an image at least " +
                                          std::to_string(kSegmentSize) +
                                          "; restore the file from a copy");
  }
  PCOW_TRY(heed_mark(options));
  was_clean_ = (sb.state & format::kStateDirty) == 0;
  LogContent log;
  log.ring = log_position(sb);
  log.end = sb.log_tail;
  // A cleanly closed image has an empty log. Under a live writer (not locked) the log moves while
  // it is read, and the metadata does not need it: the writer stores it at its place itself. What
  // is read is changing anyway.
  if (!was_clean_ && locked) {
    PCOW_TRY_ASSIGN(log, scan_log(*media_, log_position(sb)));
  }
  store_.set_overlay(std::move(log));
  PCOW_TRY(validate_root());
  PCOW_TRY(validate_log_place());
  PCOW_TRY(validate_patches());
  if (options.virtual_size && *options.virtual_size != virtual_size_) {
    return make_error(Code::kInvalid, "size=" + std::to_string(*options.virtual_size) +
                                          " does not match image '" + media_->file().path() +
                                          "' of " + std::to_string(virtual_size_) +
                                          " bytes: use size=" + std::to_string(virtual_size_) +
                                          " or resize the image with pcow-img resize");
  }
  if (options.snapshot) PCOW_TRY(show_snapshot(*options.snapshot));
  if (access_ == Access::kReadWrite) {
    PCOW_TRY(validate_trim());
    PCOW_TRY(recover());
    // From here on damage is not found by this open any more, which would just fail.
    store_.on_damage([this] { mark_corrupt(); });
    return {};
  }
  if (store_.overlay().transactions > 0 && !options.replay_in_memory) {
    return make_error(Code::kNeedsRecovery,
                      "'" + media_->file().path() + "' was not closed cleanly: its log holds " +
                          std::to_string(store_.overlay().transactions) +
                          " transactions; open it for writing once to recover it");
  }
  return {};
}

// What an image that is marked corrupt can be opened for.
Result<void> ImageImpl::heed_mark(const OpenOptions& options) {
  if ((superblocks_.current().state & format::kStateCorrupt) == 0 || options.although_corrupt) {
    return {};
  }
  const std::string what = "'" + media_->file().path() + "' is marked corrupt";
  if (access_ == Access::kReadWrite) {
    return make_error(Code::kCorrupt,
                      what +
                          ", because damage was found in it, and is not opened for writing: "
                          "'pcow-img check -r all' repairs what can be, 'pcow-img convert' copies "
                          "what can be read");
  }
  warnings_.push_back(what + ": what is read may be damaged; see 'pcow-img check'");
  return {};
}

// Metadata is damaged: what is written from now on, by whomever, could make that worse. Best
// effort: the damage is there without the mark, too.
void ImageImpl::mark_corrupt() {
  damaged_ = true;
  format::Superblock next = superblocks_.current();
  next.state = next.state | format::kStateCorrupt;
  if (!failed_ && !closed_) (void)update_superblock(next);
}

Result<void> ImageImpl::validate_root() {
  PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
  const format::RootBlock root = *root_block;
  const std::string name = "'" + media_->file().path() + "'";
  const auto damaged = [&](const std::string& what) {
    return make_error(Code::kCorrupt, name + " is damaged: " + what +
                                          "; see 'pcow-img check', restore the file from a copy");
  };
  if (root.segment_count == 0 || root.segment_count > format::kMaxSegments ||
      root.virtual_size < kMinVirtualSize || root.virtual_size > kMaxVirtualSize ||
      root.virtual_size % kChunkSize != 0 ||
      root.allocated_pages > root.segment_count * kPagesPerSegment) {
    return damaged("impossible sizes in its root block");
  }
  PCOW_TRY(media_->file().check_holds(root.segment_count * kSegmentSize));
  const bool layered = (superblocks_.current().incompatible & format::kIncompatibleLayers) != 0;
  if (root.layer_count == 0 || root.layer_count > format::kMaxLayers ||
      (root.layer_count > 1 && !layered)) {
    return damaged("impossible number of layers in its root block");
  }
  const uint64_t end = root.segment_count * kSegmentSize;
  if (!RecordPlace::is_possible(root.active_record, end) ||
      (root.deleting_record != 0 && !RecordPlace::is_possible(root.deleting_record, end)) ||
      root.deleting_record == root.active_record) {
    return damaged("its root block points outside the image");
  }
  for (const uint64_t slot : root.segment_table) {
    if (slot != 0 && !in_image(slot, format::kSlotSize, format::kSlotSize, end)) {
      return damaged("its segment table lies outside the image");
    }
  }
  for (const uint64_t slot : root.layer_directory) {
    if (slot != 0 && !in_image(slot, format::kSlotSize, format::kSlotSize, end)) {
      return damaged("its layer directory lies outside the image");
    }
  }
  if (root.trim_first_chunk > kMaxVirtualSize / kChunkSize ||
      root.trim_chunk_count > kMaxVirtualSize / kChunkSize) {
    return damaged("impossible trim range in its root block");
  }
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  if (record.id != root.active_layer || record.virtual_size != root.virtual_size) {
    return damaged("its active layer has no record");
  }
  PCOW_TRY(validate_layer(record));
  virtual_size_ = root.virtual_size;
  durable_epoch_ = Epoch(root.committed_epoch);
  return {};
}

// What a look-up relies on: the layer tables of a layer's size, within the image.
Result<void> ImageImpl::validate_layer(const format::LayerRecord& record) const {
  const uint64_t size = record.virtual_size;
  bool ok = size >= kMinVirtualSize && size <= kMaxVirtualSize && size % kChunkSize == 0 &&
            record.base_size <= size;
  for (uint64_t slot = 0; ok && slot < format::kLayerTableSlots; ++slot) {
    const bool needed = slot * format::kGibsPerSlot * kGiB < size;
    const uint64_t offset = record.tables[slot];
    ok = (offset == 0 && !needed) ||
         in_image(offset, format::kSlotSize, format::kSlotSize, image_end());
  }
  if (ok) return {};
  return make_error(Code::kCorrupt,
                    "'" + media_->file().path() +
                        "' is damaged: impossible sizes in the record of a layer, or its table "
                        "lies outside the image; see 'pcow-img check', restore the file from a "
                        "copy");
}

Result<void> ImageImpl::validate_patches() const {
  const format::Superblock& sb = superblocks_.current();
  const uint64_t end = image_end();
  const auto check = [&](uint64_t target, uint64_t length) -> Result<void> {
    const bool in_log = target + length > sb.log_offset && target < sb.log_offset + sb.log_size;
    if (!in_log && in_image(target, length, length, end)) return {};
    return make_error(Code::kCorrupt,
                      "'" + media_->file().path() +
                          "' is damaged: its log holds a record for offset " +
                          std::to_string(target) +
                          ", outside the image; nothing was replayed: restore the file from a "
                          "copy");
  };
  for (const auto& [target, lines] : store_.overlay().pages) PCOW_TRY(check(target, kPageSize));
  for (const auto& [window, pages] : store_.overlay().zeros) PCOW_TRY(check(window, kWindowSize));
  for (const auto& [segment, windows] : store_.overlay().filling)
    PCOW_TRY(table_of_filled(segment));
  return {};
}

// Nothing but a log may be where it is outside the first segment.
Result<void> ImageImpl::validate_log_place() const {
  const format::Superblock& sb = superblocks_.current();
  if (sb.log_offset < kSegmentSize) return {};
  const uint64_t end = round_up(sb.log_offset + sb.log_size, kSegmentSize);
  for (uint64_t segment = sb.log_offset; segment < end; segment += kSegmentSize) {
    bool for_log = segment < image_end();
    if (for_log) {
      PCOW_TRY_ASSIGN(const format::SegmentEntry entry,
                      allocator_.entry(SegmentIndex(segment / kSegmentSize)));
      for_log = entry.kind == static_cast<uint8_t>(format::SegmentKind::kLog);
    }
    if (for_log) continue;
    return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                          "' is damaged: its log lies in segment " +
                                          std::to_string(segment / kSegmentSize) +
                                          ", which is not for a log; nothing was replayed: restore "
                                          "the file from a copy");
  }
  return {};
}

// Stores what the log says at its places: whole pages that lie side by side in one piece.
Result<void> ImageImpl::replay(const LogContent& log) {
  constexpr size_t kStoredAtOnce = 64;
  std::vector<format::Block> run(kStoredAtOnce);
  uint64_t first = 0;
  size_t count = 0;
  const auto store_run = [&]() -> Result<void> {
    const uint64_t length = std::exchange(count, 0) * kPageSize;
    if (length == 0) return {};
    PCOW_TRY(media_->reserve(first, length));
    return media_->write(&StoredBytes::checkpoint, first,
                         std::as_bytes(std::span(run)).first(length));
  };
  for (const auto& [window, zero] : log.zeros) {
    for (uint64_t page = 0, end = 0; page < kPagesPerChunk; page = end + 1) {
      for (end = page; end < kPagesPerChunk && zero[end]; ++end) {
      }
      if (end == page) continue;
      PCOW_TRY(media_->file().punch(window + page * kPageSize, (end - page) * kPageSize));
    }
  }
  const bool whole_pages = media_->granularity() == Granularity::kPage;  // as PageStorer does
  for (const auto& [target, lines] : log.pages) {
    if (count == run.size() || target != first + count * kPageSize) PCOW_TRY(store_run());
    format::Block& page = run[count];
    const bool is_whole =
        (lines.size() == 1 && lines.front().mask == kAllLines) || log.zeroes(target);
    if (whole_pages && !is_whole) PCOW_TRY(media_->read(target, page.bytes));
    PCOW_TRY_ASSIGN(const uint64_t mask, log.lay_over(*media_, target, page.bytes));
    const bool complete = whole_pages || mask == kAllLines;
    if (complete && target >= kSegmentSize && is_zero(page.bytes)) {
      PCOW_TRY(store_run());
      PCOW_TRY(media_->file().punch(target, kPageSize));
      continue;
    }
    if (complete) {
      if (count++ == 0) first = target;
      continue;
    }
    PCOW_TRY(media_->reserve(target, kPageSize));
    PCOW_TRY(store_lines(*media_, &StoredBytes::checkpoint, target, mask, page));
  }
  return store_run();
}

// Stores what the log says and finishes what was interrupted. A clean image is left as it is.
Result<void> ImageImpl::recover() {
  // What was read need not be durable: its writer may have been killed before it flushed the log,
  // or the second superblock copy.
  if (!was_clean_) PCOW_TRY(media_->flush());
  const LogContent& log = store_.overlay();
  PCOW_TRY(replay(log));
  recovered_ = log.transactions > 0;
  if (recovered_) {
    PCOW_TRY(media_->flush());
    recovery_ = {log.transactions, log.end - log.ring.tail, log.page_count()};
  }
  std::map<uint64_t, WindowSet> filling = log.filling;
  LogPosition position = log_position(superblocks_.current());
  position.tail = round_up(log.end, position.size);
  log_.reset(position);
  store_.clear_overlay();
  // A crash may have come between the log's move and the hole that it leaves.
  if (!was_clean_) PCOW_TRY(empty_log_room(format::kLogOffset, kSegmentSize, false));
  // The log still says what is being filled until all of it is empty, durably.
  if (!filling.empty()) {
    PCOW_TRY_ASSIGN(const uint64_t size, media_->file().size());
    // Nothing was stored where the file was not extended to.
    std::erase_if(filling, [&](const auto& item) { return item.first + kSegmentSize > size; });
    PCOW_TRY(empty_filled(filling));
    PCOW_TRY(media_->flush());
  }
  const bool damaged_copy = !superblocks_.warnings().empty() || !stripe_.warnings().empty();
  if (!was_clean_ || damaged_copy) PCOW_TRY(begin_writing());
  PCOW_TRY(finish_trim());
  return resume_deletion();
}

// What a crash, or closing the image, left of a deletion. For lack of space it waits: the image is
// whole without it. So it
// does when what the deleted layer left is damaged: the file is changed by now, and an open that
// fails has changed nothing.
Result<void> ImageImpl::resume_deletion() {
  Result<void> finished = finish_deletion();
  if (finished || failed_) return finished;
  const Error& error = finished.error();
  if (error.code == Code::kCorrupt) {
    warnings_.push_back("a deletion that was interrupted does not go on: " + error.message);
  }
  if (error.code == Code::kNoSpace || error.code == Code::kCorrupt) return {};
  return finished;
}

// Marks the image open for writing, once, before the first change. The new log generation makes
// whatever the ring still holds void.
Result<void> ImageImpl::begin_writing(bool new_generation) {
  if (writing_) return {};
  PCOW_TRY(stripe_.begin_session(*media_, superblocks_));
  PCOW_TRY(empty_log_and_mark(superblocks_.current().state | format::kStateDirty, new_generation));
  writing_ = true;
  return {};
}

// REQUIRES: every transaction in the log is stored and durable.
Result<void> ImageImpl::empty_log_and_mark(uint32_t state, bool new_generation) {
  const LogPosition& log = log_.position();
  return empty_log_and_mark(state, new_generation, log.size, log.offset);
}

Result<void> ImageImpl::empty_log_and_mark(uint32_t state, bool new_generation, uint64_t log_size,
                                           uint64_t log_offset) {
  format::Superblock next = superblocks_.current();
  const LogPosition position = log_.emptied(next.log_generation + 1, log_size, log_offset);
  stripe_.take_session(next);
  next.state = state;
  next.log_offset = position.offset;
  next.log_size = position.size;
  next.log_generation = position.generation;
  next.log_tail = position.tail;
  next.checkpointed_epoch = durable_epoch_.value;
  // Durable with the dirty mark, before the first change could break what the bits promise.
  next.autoclear = next.autoclear & format::kAutoclearKept;
  if (new_generation) next.generation = next.generation + 1;
  if ((state & format::kStateDirty) == 0) {
    // Without snapshots, versions that know nothing of layers may have it.
    PCOW_TRY_ASSIGN(const format::RootBlock* root_block, root());
    if (root_block->layer_count == 1) {
      next.incompatible = next.incompatible & ~format::kIncompatibleLayers;
    }
  }
  PCOW_TRY(update_superblock(next));
  log_.reset(position);
  log_holds_data_ = false;
  return {};
}

Result<void> ImageImpl::update_superblock(const format::Superblock& next) {
  Result<void> result = superblocks_.update(*media_, next);
  if (!result) failed_ = true;
  return result;
}

Result<void> ImageImpl::close() {
  if (closed_ || access_ == Access::kReadOnly) return {};
  PCOW_TRY(check_open_for_writing());
  if (writing_) {
    give_back_ahead();
    PCOW_TRY(drop_epoch());
    PCOW_TRY(store_all_logged());
    PCOW_TRY(stripe_.begin_session(*media_, superblocks_));
    const format::Superblock& sb = superblocks_.current();
    PCOW_TRY(empty_log_and_mark(sb.state & ~format::kStateDirty, false));
    // What the log took is free again. The image is clean already: a failure only costs space.
    (void)media_->file().punch(sb.log_offset, sb.log_size);
  }
  closed_ = true;
  ahead_.reset();
  media_->file().unlock();
  return {};
}

}  // namespace pcow
