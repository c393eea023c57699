// SPDX-License-Identifier: BSD-3-Clause
//
// A layer gives up a GiB: its layer table's entry goes, and what nothing else shows goes with it
// (FORMAT.md, section 9, "Sharing"). The layer is one that is being deleted, or the active one
// giving up what lies beyond its end; nobody reads the GiB through it any more.
//
// The entry names table T. Who else uses T decides; each line is one transaction, so that after a
// crash the entry still names what is left to do:
//
//   nobody             T goes into quarantine with its segment; the entry names T's parent: again
//   one layer table    T becomes that layer's; the entry is 0
//   one child table    T and the child become one, so that chains do not grow (merge()); 0
//   several            T belongs to no layer from now on; 0
//
// Merging T into its child C. T shows through C and nothing else. The cheaper way is taken:
//   to the child:  pages of T that C lacks move into C's windows, a batch a transaction that holds
//                  ownership and data alike: what C shows is the same before and after each.
//   to the parent: T owns C's pages as well (C hides them in T: nobody sees that they are wrong),
//                  then C's data is stored in T's windows and made durable, then one transaction
//                  gives C the segment and the pages of T.
// Both may be repeated from the start at any point; both end with T, and one segment, in
// quarantine. And both go on where a step ended, although the child may be the active layer's and
// have changed meanwhile: it only gets more pages, and what is stored to a page that was copied is
// copied again (forget_copy()). Should more be written than can be copied, the other way is taken,
// on which nothing has to be done twice.
#include "pcow/base/zero.h"
#include "pcow/engine/image_impl.h"

namespace pcow {

// Pages are copied so often, on average, before that is given up.
constexpr uint64_t kCopiesMax = 4;

using format::BlockType;
using format::ChunkEntry;
using format::LayerRecord;
using format::PageMapBytes;

// Table T of a layer that gives up a GiB.
struct ImageImpl::Release {
  uint64_t place;  // of the layer's record
  LayerRecord layer;
  GibIndex gib;
  ChunkTable table;
  ChunkEntries entries;  // of the table

  uint64_t parent() const { return entries.fields().parent; }
};

// The tables that layers other than the one at `except` use in a GiB.
Result<std::map<uint64_t, ImageImpl::TableUse>> ImageImpl::uses_of(GibIndex gib,
                                                                   uint64_t except) const {
  std::map<uint64_t, TableUse> uses;
  const auto visit = [&](uint64_t place, const LayerRecord& record) -> Result<void> {
    if (place == except) return {};
    PCOW_TRY_ASSIGN(const bool there, has_table_block(record, gib));
    if (!there) return {};
    PCOW_TRY_ASSIGN(uint64_t offset, table_entry(record, gib));
    if (offset == 0) return {};
    const bool walked = uses.contains(offset);
    uses[offset].layers.push_back(place);
    uint64_t steps = 0;
    for (bool seen = walked; !seen;) {
      PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, table_at(offset, gib));
      format::Block header;
      PCOW_TRY(table->read_header(header));
      const auto& fields = header.as<format::ChunkTableHeader>();
      PCOW_TRY(parent_of(fields, gib, steps));
      if (fields.parent == 0) break;
      seen = uses.contains(fields.parent);
      uses[fields.parent].children.push_back(offset);
      offset = fields.parent;
    }
    return {};
  };
  PCOW_TRY(layers_.for_each(visit));
  return uses;
}

// Inside a transaction.
Result<void> ImageImpl::set_entry(uint64_t place, GibIndex gib, uint64_t table) {
  PCOW_TRY_ASSIGN(const LayerRecord record, layers_.read(place));
  const uint64_t slot = record.tables[gib.value / format::kGibsPerSlot];
  const uint64_t index = gib.value % format::kGibsPerSlot / format::kGibsPerBlock;
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_.modify_block(slot + index * format::kBlockSize, BlockType::kLayerTable));
  block->as<format::LayerTableBlock>().chunk_tables[gib.value % format::kGibsPerBlock] = table;
  return {};
}

// Inside a transaction: `pages` are no longer those of the layer that gives up the table, if they
// were. The image has them still.
Result<void> ImageImpl::leave_layer(const Release& release, uint64_t pages) {
  const uint64_t layer = release.entries.fields().layer;
  if (layer == 0) return {};
  if (layer != release.layer.id) {
    store_.report_damage();
    return make_error(Code::kCorrupt,
                      "'" + media_->file().path() + "' is damaged: the chunk table at offset " +
                          std::to_string(release.table.offset()) +
                          " belongs to a layer that does not name it; see 'pcow-img check'");
  }
  PCOW_TRY_ASSIGN(LayerRecord * record, layers_.modify(release.place));
  record->allocated_pages = record->allocated_pages - pages;
  return {};
}

// Inside a transaction: nobody else uses the table.
Result<void> ImageImpl::drop_table(const Release& release) {
  const uint64_t pages = release.entries.owned_pages();
  PCOW_TRY(leave_layer(release, pages));
  PCOW_TRY(count_pages(0, 0, pages));
  PCOW_TRY(set_entry(release.place, release.gib, release.parent()));
  return allocator_.quarantine(SegmentIndex(release.entries.segment_offset() / kSegmentSize),
                               release.table.offset(), durable_epoch_);
}

// Inside a transaction: others go on using the table.
Result<void> ImageImpl::pass_table_on(const Release& release, const TableUse& use) {
  PCOW_TRY(set_entry(release.place, release.gib, 0));
  const uint64_t pages = release.entries.owned_pages();
  const uint64_t old_layer = release.entries.fields().layer;
  const bool one_layer = use.children.empty() && use.layers.size() == 1;
  ChunkTable table = release.table;
  if (one_layer) {
    PCOW_TRY_ASSIGN(const LayerRecord heir, layers_.read(use.layers.front()));
    if (heir.id == old_layer) return {};
    PCOW_TRY(leave_layer(release, pages));
    PCOW_TRY_ASSIGN(LayerRecord * record, layers_.modify(use.layers.front()));
    record->allocated_pages = record->allocated_pages + pages;
    if (heir.flags == 0) PCOW_TRY(drop_checksums(table));  // the active layer: it changes again
    return table.set_layer(LayerId(heir.id));
  }
  if (old_layer != release.layer.id) return {};
  PCOW_TRY(leave_layer(release, pages));
  return table.set_layer(LayerId(0));
}

namespace {

PageMapBytes united(const PageMapBytes& a, const PageMapBytes& b) {
  PageMapBytes both = a;
  for (size_t i = 0; i < both.size(); ++i) both[i] = static_cast<uint8_t>(both[i] | b[i]);
  return both;
}

// What `a` has and `b` has not.
PageMap lacking(const PageMapBytes& a, const PageMapBytes& b) {
  return to_page_map(a) & ~to_page_map(b);
}

}  // namespace

// How many pages of T its child lacks, and how many the child has.
struct ImageImpl::MergeCost {
  uint64_t to_child = 0;
  uint64_t to_parent = 0;
};

Result<ImageImpl::MergeCost> ImageImpl::merge_cost(const Release& release,
                                                   const ChunkTable& child) const {
  ChunkEntries child_entries;
  PCOW_TRY(child.read_entries(child_entries));
  MergeCost cost;
  cost.to_parent = child_entries.owned_pages();
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const ChunkEntry& mine = release.entries.entry(chunk);
    if (mine.owned_pages == 0) continue;
    PCOW_TRY_ASSIGN(const PageMapBytes map, release.table.page_map(chunk, mine));
    PCOW_TRY_ASSIGN(const PageMapBytes child_map,
                    child.page_map(chunk, child_entries.entry(chunk)));
    cost.to_child += lacking(map, child_map).count();
  }
  return cost;
}

Result<bool> ImageImpl::merge(const Release& release, uint64_t child_offset, DeletionStep& step) {
  PCOW_TRY_ASSIGN(std::optional<ChunkTable> child, table_at(child_offset, release.gib));
  format::Block header;
  PCOW_TRY(child->read_header(header));
  const uint64_t layer = header.as<format::ChunkTableHeader>().layer;
  uint64_t child_layer = 0;
  const auto visit = [&](uint64_t place, const LayerRecord& record) -> Result<void> {
    if (record.id == layer) child_layer = place;
    return {};
  };
  PCOW_TRY(layers_.for_each(visit));
  if (!merging_ || merging_->table != release.table.offset() || merging_->child != child_offset) {
    PCOW_TRY_ASSIGN(const MergeCost cost, merge_cost(release, *child));
    merging_ = Merging{release.table.offset(), child_offset, cost.to_child <= cost.to_parent};
  }
  PCOW_TRY_ASSIGN(const bool merged, merging_->to_child
                                         ? move_to_child(release, *child, child_layer, step)
                                         : move_to_parent(release, *child, child_layer, step));
  if (merged) merging_.reset();
  return merged;
}

// Inside a transaction: logs up to `room` of the pages that T has and the child has not in a chunk,
// with their ownership. Returns how many.
Result<uint64_t> ImageImpl::move_chunk(const Release& release, ChunkTable& child,
                                       const ChunkEntries& child_entries, uint64_t chunk,
                                       uint64_t room) {
  const ChunkEntry& mine = release.entries.entry(chunk);
  if (mine.owned_pages == 0) return uint64_t{0};
  PCOW_TRY_ASSIGN(const PageMapBytes map, release.table.page_map(chunk, mine));
  PCOW_TRY_ASSIGN(PageMapBytes child_map, child.page_map(chunk, child_entries.entry(chunk)));
  const PageMap missing = lacking(map, child_map);
  std::vector<std::byte> data(kPageSize);
  uint64_t moved = 0;
  for (uint64_t page = 0; page < kPagesPerChunk && moved < room; ++page) {
    if (!missing[page]) continue;
    ++moved;
    set_owned(child_map, page);
    PCOW_TRY(media_->read(mine.window + page * kPageSize, data));
    if (is_zero(data)) continue;
    log_data(child_entries.segment_offset() + chunk * kWindowSize + page * kPageSize, data);
  }
  if (moved == 0) return uint64_t{0};
  PCOW_TRY(child.set_map(chunk, child_map, child_entries.segment_offset()));
  return moved;
}

Result<bool> ImageImpl::move_to_child(const Release& release, ChunkTable& child,
                                      uint64_t child_layer, DeletionStep& step) {
  for (uint64_t chunk = 0; chunk < kChunksPerSegment;) {
    if (step.spent()) return false;
    const uint64_t batch = std::min(superblocks_.current().log_size / (4 * kPageSize), step.left);
    ChunkEntries child_entries;
    PCOW_TRY(child.read_entries(child_entries));
    uint64_t moved = 0;
    const auto change = [&]() -> Result<void> {
      while (chunk < kChunksPerSegment) {
        PCOW_TRY_ASSIGN(const uint64_t pages,
                        move_chunk(release, child, child_entries, chunk, batch - moved));
        moved += pages;
        if (moved == batch) break;  // the chunk may have more
        ++chunk;
      }
      if (moved == 0) return {};
      PCOW_TRY(child.finish());
      PCOW_TRY(drop_checksums(child));
      PCOW_TRY(count_pages(child_layer, moved, 0));
      log_holds_data_ = true;
      return commit_transaction();
    };
    PCOW_TRY(with_transaction(change));
    store_.forget(child_entries.segment_offset(), kSegmentSize);
    step.report.moved_pages += moved;
    step.take(moved);
    step.take_transaction();
  }
  const auto change = [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(format::ChunkTableHeader * header, child.modify_header());
    header->parent = release.parent();
    PCOW_TRY(drop_table(release));
    PCOW_TRY(set_entry(release.place, release.gib, 0));
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  return true;
}

// A transaction: T owns what its child owns, and has no checksums of what it is about to lose.
Result<void> ImageImpl::own_childs_pages(const Release& release, const ChunkTable& child,
                                         const ChunkEntries& child_entries, DeletionStep& step) {
  ChunkTable table = release.table;
  uint64_t added = 0;
  return with_transaction([&]() -> Result<void> {
    for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
      const ChunkEntry& theirs = child_entries.entry(chunk);
      if (theirs.owned_pages == 0) continue;
      PCOW_TRY_ASSIGN(const PageMapBytes child_map, child.page_map(chunk, theirs));
      PCOW_TRY_ASSIGN(const PageMapBytes map, table.page_map(chunk, release.entries.entry(chunk)));
      const uint64_t more = lacking(child_map, map).count();
      if (more == 0) continue;
      added += more;
      PCOW_TRY(table.set_map(chunk, united(map, child_map), release.entries.segment_offset()));
    }
    PCOW_TRY(drop_checksums(table));
    if (added == 0 && !store_.changed()) return {};
    if (added > 0) PCOW_TRY(table.finish());
    step.take_preparation(DeletionStep::kPagesPerTransaction);
    const bool of_layer = release.entries.fields().layer != 0;
    PCOW_TRY(count_pages(of_layer ? release.place : 0, added, 0));
    return commit_transaction();
  });
}

Result<void> ImageImpl::copy_page(uint64_t from, uint64_t to) {
  std::vector<std::byte> data(kPageSize);
  PCOW_TRY(media_->read(from, data));
  if (is_zero(data)) return media_->file().punch(to, kPageSize);
  PCOW_TRY(media_->reserve(to, kPageSize));
  return media_->write(&StoredBytes::copies, to, data);
}

void ImageImpl::forget_copy(uint64_t place) {
  if (!merging_) return;
  const auto window = merging_->copied.find(place / kWindowSize * kWindowSize);
  if (window != merging_->copied.end()) window->second.reset(place % kWindowSize / kPageSize);
}

// Stores the child's data in T's windows.
Result<bool> ImageImpl::copy_childs_data(const Release& release, const ChunkTable& child,
                                         const ChunkEntries& child_entries, DeletionStep& step) {
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const ChunkEntry& theirs = child_entries.entry(chunk);
    if (theirs.owned_pages == 0) continue;
    PCOW_TRY_ASSIGN(const PageMapBytes map, child.page_map(chunk, theirs));
    PageMap& copied = merging_->copied[theirs.window];
    const PageMap missing = to_page_map(map) & ~copied;
    const uint64_t to = release.entries.segment_offset() + chunk * kWindowSize;
    for (uint64_t page = 0; missing.any() && page < kPagesPerChunk; ++page) {
      if (!missing[page]) continue;
      if (step.spent()) return false;
      PCOW_TRY(copy_page(theirs.window + page * kPageSize, to + page * kPageSize));
      copied.set(page);
      ++merging_->copied_ever;
      ++step.report.moved_pages;
      step.take(1);
    }
  }
  return true;
}

Result<bool> ImageImpl::move_to_parent(const Release& release, ChunkTable& child,
                                       uint64_t child_layer, DeletionStep& step) {
  ChunkEntries child_entries;
  PCOW_TRY(child.read_entries(child_entries));
  PCOW_TRY(own_childs_pages(release, child, child_entries, step));
  if (log_holds_data_) {
    PCOW_TRY_ASSIGN(const bool empty, empty_log(step));
    if (!empty) return false;
  }
  PCOW_TRY_ASSIGN(const bool copied, copy_childs_data(release, child, child_entries, step));
  if (!copied) {
    merging_->to_child = merging_->copied_ever > kCopiesMax * child_entries.owned_pages();
    return false;
  }
  PCOW_TRY(media_->flush());
  ChunkEntries entries;  // T's, with the child's pages
  PCOW_TRY(release.table.read_entries(entries));
  const auto change = [&]() -> Result<void> {
    for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
      if (entries.entry(chunk).owned_pages == 0) continue;
      PCOW_TRY_ASSIGN(const PageMapBytes map, release.table.page_map(chunk, entries.entry(chunk)));
      PCOW_TRY(child.set_map(chunk, map, entries.segment_offset()));
    }
    PCOW_TRY_ASSIGN(format::ChunkTableHeader * header, child.modify_header());
    header->segment = entries.segment_offset();
    header->parent = release.parent();
    PCOW_TRY(child.finish());
    PCOW_TRY(drop_checksums(child));
    const uint64_t pages = entries.owned_pages();
    PCOW_TRY(leave_layer(release, pages));
    PCOW_TRY(count_pages(0, 0, pages));
    PCOW_TRY(count_pages(child_layer, pages, child_entries.owned_pages()));
    PCOW_TRY(set_entry(release.place, release.gib, 0));
    PCOW_TRY(
        allocator_.pass_on(SegmentIndex(entries.segment_offset() / kSegmentSize), child.offset()));
    PCOW_TRY(allocator_.quarantine(SegmentIndex(child_entries.segment_offset() / kSegmentSize),
                                   release.table.offset(), durable_epoch_));
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  return true;
}

Result<bool> ImageImpl::release_gib(uint64_t place, GibIndex gib, DeletionStep& step) {
  PCOW_TRY_ASSIGN(const LayerRecord layer, layers_.read(place));
  PCOW_TRY_ASSIGN(const uint64_t first, table_entry(layer, gib));
  if (first == 0) return true;
  PCOW_TRY_ASSIGN(const auto uses, uses_of(gib, place));
  uint64_t steps = 0;
  for (;;) {
    PCOW_TRY_ASSIGN(const uint64_t offset, table_entry(layer, gib));
    PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, table_at(offset, gib));
    if (!table) return true;
    if (step.spent()) return false;
    Release release{place, layer, gib, *table, {}};
    PCOW_TRY(table->read_entries(release.entries));
    PCOW_TRY(parent_of(release.entries.fields(), gib, steps));  // a circle would have no end
    const auto use = uses.find(offset);
    if (use != uses.end() && use->second.layers.empty() && use->second.children.size() == 1) {
      return merge(release, use->second.children.front(), step);
    }
    const auto change = [&]() -> Result<void> {
      PCOW_TRY(use == uses.end() ? drop_table(release) : pass_table_on(release, use->second));
      return commit_transaction();
    };
    PCOW_TRY(with_transaction(change));
    step.take_transaction();
  }
}

}  // namespace pcow
