// SPDX-License-Identifier: BSD-3-Clause
//
// Writing pages in place (volatile memory), and transactions.
//
// Order of one batch, and what a crash leaves behind:
//   1. reserve space for data, log and metadata      (zeros nobody owns: the zero rule holds)
//   2. log the new ownership, durable                (recovery gives ownership of zeros)
//   3. store the metadata at its places              (recovery repeats it)
//   4. store the data in place                       (pages are new, old or zero)
// commit() flushes the data, then logs the epoch (image_commit.cc).
//
// A page that an older layer owns is different: in between it would read as zeros, and what it held
// may be committed. Its new data goes into the log together with its ownership (step 2), and from
// there to its place (step 3): the page is old or new.
#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "pcow/base/no_memory.h"
#include "pcow/base/zero.h"
#include "pcow/engine/image_impl.h"
#include "pcow/engine/page_runs.h"

namespace pcow {

using format::BlockType;

namespace {

// A batch keeps its transaction well below the smallest log (a table is 44 KiB).
constexpr uint64_t kTablesPerBatch = 32;
constexpr size_t kPagesPerBatch = 16384;

}  // namespace

struct ImageImpl::WritePlan {
  struct Run {
    uint64_t file_offset;
    std::vector<iovec> parts;
    uint64_t length = 0;
  };
  std::vector<Run> data;                                      // to store
  std::vector<Range> reserve;                                 // holes that will hold data
  std::vector<Range> punch;                                   // owned pages that become zero
  std::vector<std::pair<uint64_t, const std::byte*>> logged;  // data that goes into the log
  std::vector<ChunkTable> touched;
  std::vector<ChunkIndex> filled;  // that own more pages
  uint64_t new_pages = 0;
  uint64_t zero_pages = 0;
  uint64_t data_pages = 0;
  bool overwrites = false;  // pages that were owned before
};

// How many of the pages make one batch. Data that may have to be logged is more for a log to take.
size_t ImageImpl::batch_size(std::span<const PageWrite> pages) const {
  const auto root_block = root();
  const bool layered = (root_block && (*root_block)->layer_count > 1) ||
                       (superblocks_.current().incompatible & format::kIncompatibleBase) != 0 ||
                       next_base_ != nullptr;
  const size_t pages_max =
      layered ? superblocks_.current().log_size / (2 * kPageSize) : kPagesPerBatch;
  const uint64_t tables_max = layered ? kTablesPerBatch / 2 : kTablesPerBatch;
  uint64_t tables = 0;
  uint64_t last = std::numeric_limits<uint64_t>::max();
  size_t count = 0;
  for (; count < pages.size() && count < std::min(pages_max, kPagesPerBatch); ++count) {
    const uint64_t gib = gib_of(chunk_of(pages[count].page)).value;
    if (gib != last && ++tables > tables_max) break;
    last = gib;
  }
  return count;
}

// What finishes what was begun needs no more. Whoever is about to change something comes by here.
Result<void> ImageImpl::check_open_for_writing() const {
  pause_ahead();
  const std::string name = "'" + media_->file().path() + "'";
  if (access_ != Access::kReadWrite || closed_) {
    return make_error(Code::kInvalid, name + " is not open for writing");
  }
  if (failed_ || media_->file().sync_failed()) {
    return make_error(Code::kIo, name +
                                     " takes no writes after an earlier failure of the medium; "
                                     "close it and open it again, which recovers it");
  }
  return {};
}

Result<void> ImageImpl::check_writable() const {
  PCOW_TRY(check_open_for_writing());
  if (!damaged_) return {};
  return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                        "' takes no writes any more: damage was found in it; "
                                        "close it, and see 'pcow-img check -r all'");
}

Result<void> ImageImpl::with_transaction(const std::function<Result<void>()>& body) {
  Result<void> result = memory_checked(media_->file().path(), body);
  if (!result) {
    store_.abort();
    allocator_.forget();
  }
  return result;
}

Result<void> ImageImpl::commit_transaction() {
  pause_ahead();
  PCOW_TRY(begin_writing());
  const std::vector<RedoLog::Change> changes = store_.seal_changes();
  const uint64_t bytes = RedoLog::size_bound(changes);
  if (bytes > log_.free_bytes()) PCOW_TRY(checkpoint_log());
  PCOW_TRY(log_.reserve(bytes));
  PCOW_TRY(store_.reserve_places());
  Result<void> result = log_.append(changes, durable_epoch_ + 1);
  if (result) result = store_.checkpoint(changes);
  if (!result) failed_ = true;  // invariant 4
  return result;
}

// A page that was logged is stored in place, or its place is emptied: recovery must not undo that.
Result<void> ImageImpl::settle_log() { return log_holds_data_ ? checkpoint_log() : Result<void>(); }

void ImageImpl::log_data(uint64_t place, std::span<const std::byte> data) {
  std::memcpy(store_.create_raw_page(place)->bytes.data(), data.data(), kPageSize);
}

Result<ChunkTable> ImageImpl::own_table(GibIndex gib) {
  PCOW_TRY_ASSIGN(const std::optional<ChunkTable> there, chunk_table(gib));
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layers_.read(place));
  if (there) {
    format::Block header;
    PCOW_TRY(there->read_header(header));
    if (header.as<format::ChunkTableHeader>().layer == record.id) return *there;
  }
  PCOW_TRY_ASSIGN(const uint64_t slot, allocator_.take_slot());
  PCOW_TRY_ASSIGN(const SegmentIndex segment, allocator_.take_data_segment(slot));
  PCOW_TRY(set_entry(place, gib, slot));
  ChunkTable table(store_, superblocks_.current().uuid, slot, gib, image_end(),
                   media_->file().path());
  table.create(LayerId(record.id), segment.value * kSegmentSize, there ? there->offset() : 0);
  PCOW_TRY(table.finish());
  return table;
}

Result<void> ImageImpl::add_own_table(GibIndex gib, GibWriter& writer) {
  PCOW_TRY_ASSIGN(writer.own, own_table(gib));
  return writer.own->read_entries(writer.entries);
}

Result<void> ImageImpl::plan_gib(GibIndex gib, GibWriter& writer) const {
  writer.own.reset();
  writer.below.reset();
  PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib));
  if (!table) return {};
  PCOW_TRY_ASSIGN(const format::LayerRecord record, layer());
  PCOW_TRY(table->read_entries(writer.entries));
  const format::ChunkTableHeader& header = writer.entries.fields();
  if (header.layer != record.id) {
    writer.below = table;
    return {};
  }
  writer.own = table;
  PCOW_TRY_ASSIGN(writer.below, table_at(header.parent, gib));
  return {};
}

// Adds the pages of a chunk that the base shows, or that it may show if it was not opened; and
// those that the next base will show.
Result<void> ImageImpl::add_base_pages(ChunkIndex chunk, PageMap& pages) const {
  PCOW_TRY_ASSIGN(const uint64_t end_of_base, base_end());
  const uint64_t start = chunk.value * kChunkSize;
  if (end_of_base > start && !base_) {
    const uint64_t count = (std::min(end_of_base - start, kChunkSize) + kPageSize - 1) / kPageSize;
    for (uint64_t page = 0; page < count; ++page) pages[page] = true;
    return {};
  }
  std::vector<bool> shown(kPagesPerChunk);
  PCOW_TRY((BaseView{base_.get(), end_of_base}.add_pages(start, shown)));
  if (next_base_ != nullptr) PCOW_TRY(next_base_->add_pages(start, shown));
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if (shown[page]) pages[page] = true;
  }
  return {};
}

Result<ImageImpl::ChunkPages> ImageImpl::lower_pages(const GibWriter& writer,
                                                     ChunkIndex chunk) const {
  ChunkPages lower;
  PCOW_TRY(look_up(writer.below, chunk, lower));
  PCOW_TRY(add_base_pages(chunk, lower.owned));
  return lower;
}

// All `pages` lie in one chunk of the writer's GiB.
Result<void> ImageImpl::plan_chunk(std::span<const PageWrite> pages, GibWriter& writer,
                                   WritePlan& plan) {
  const ChunkIndex chunk = chunk_of(pages.front().page);
  const uint64_t in_segment = chunk_in_segment(chunk);
  PCOW_TRY_ASSIGN(const ChunkPages lower, lower_pages(writer, chunk));
  if (!writer.own) {
    const bool nothing_to_own = std::all_of(pages.begin(), pages.end(), [&](const PageWrite& w) {
      return is_zero_page(w.data) && !lower.owned[page_in_chunk(w.page)];
    });
    if (nothing_to_own) {
      plan.zero_pages += pages.size();
      return {};
    }
    PCOW_TRY(add_own_table(gib_of(chunk), writer));
    plan.touched.push_back(*writer.own);
  }
  PCOW_TRY_ASSIGN(format::PageMapBytes map,
                  writer.own->page_map(in_segment, writer.entries.entry(in_segment)));
  const uint64_t window = writer.entries.segment_offset() + in_segment * kWindowSize;
  uint64_t added = 0;
  for (const PageWrite& write : pages) {
    const uint64_t page = page_in_chunk(write.page);
    const uint64_t place = window + page * kPageSize;
    const bool owned = owns(map, page);
    const bool zero = is_zero_page(write.data);
    ++(zero ? plan.zero_pages : plan.data_pages);
    plan.overwrites |= owned;
    forget_copy(place);
    if (zero && owned) add_range(plan.punch, place);
    if (zero && !lower.owned[page]) continue;
    // A zero that hides what is below is a page that is owned, and a hole.
    if (!owned) {
      set_owned(map, page);
      ++added;
    }
    if (zero) continue;
    // An owned page may be a hole (it was zero), so it is reserved as well.
    add_range(plan.reserve, place);
    if (!owned && lower.owned[page]) {
      plan.logged.emplace_back(place, write.data);
      continue;
    }
    if (plan.data.empty() || plan.data.back().file_offset + plan.data.back().length != place) {
      plan.data.push_back({place, {}, 0});
    }
    add_part(plan.data.back().parts, write.data);
    plan.data.back().length += kPageSize;
  }
  if (added == 0) return {};
  plan.new_pages += added;
  plan.filled.push_back(chunk);
  return writer.own->set_map(in_segment, map, writer.entries.segment_offset());
}

Result<void> ImageImpl::plan_writes(std::span<const PageWrite> pages, WritePlan& plan) {
  std::optional<GibIndex> gib;
  GibWriter writer;
  while (!pages.empty()) {
    const auto chunk_pages = pages.first(same_chunk(pages));
    pages = pages.subspan(chunk_pages.size());
    const GibIndex here = gib_of(chunk_of(chunk_pages.front().page));
    if (gib != here) {
      gib = here;
      PCOW_TRY(plan_gib(here, writer));
      if (writer.own) plan.touched.push_back(*writer.own);
    }
    PCOW_TRY(plan_chunk(chunk_pages, writer, plan));
  }
  for (ChunkTable& touched : plan.touched) PCOW_TRY(touched.finish());
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  return count_pages(place, plan.new_pages, 0);
}

Result<void> ImageImpl::count_pages(uint64_t place, uint64_t added, uint64_t removed) {
  if (added == removed) return {};
  PCOW_TRY_ASSIGN(format::Block * root_block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  auto& root_ref = root_block->as<format::RootBlock>();
  root_ref.allocated_pages = root_ref.allocated_pages + added - removed;
  if (place == 0) return {};
  PCOW_TRY_ASSIGN(format::LayerRecord * record, layers_.modify(place));
  record->allocated_pages = record->allocated_pages + added - removed;
  return {};
}

Result<void> ImageImpl::write_batch(std::span<const PageWrite> pages, WriteReport& report) {
  WritePlan plan;
  const auto own_pages = [&]() -> Result<void> {
    plan = {};
    PCOW_TRY(plan_writes(pages, plan));
    if (plan.overwrites) PCOW_TRY(settle_log());  // which may make holes, so before reserving
    PCOW_TRY(reserve_pages(plan.reserve));
    for (const auto& [place, data] : plan.logged) log_data(place, {data, kPageSize});
    return store_.changed() ? commit_transaction() : begin_writing();
  };
  PCOW_TRY(with_space([&] { return with_transaction(own_pages); }));
  note_filled(plan.filled);
  for (const auto& [place, data] : plan.logged) store_.forget(place, kPageSize);
  log_holds_data_ |= !plan.logged.empty();
  for (const WritePlan::Run& run : plan.data)
    PCOW_TRY(media_->write(&StoredBytes::pages, run.file_offset, run.parts));
  for (const auto& [offset, length] : plan.punch) PCOW_TRY(media_->file().punch(offset, length));
  report.written_pages += plan.data_pages;
  report.zero_pages += plan.zero_pages;
  written_since_commit_ |= plan.data_pages > 0 || plan.new_pages > 0 || !plan.punch.empty();
  return {};
}

Result<void> ImageImpl::check_pages(std::span<const PageWrite> pages) const {
  for (size_t i = 0; i < pages.size(); ++i) {
    if (pages[i].page.value >= virtual_size_ / kPageSize ||
        (i > 0 && pages[i].page <= pages[i - 1].page)) {
      return make_error(Code::kInvalid, "pages to write must ascend and lie inside the image");
    }
  }
  return {};
}

Result<WriteReport> ImageImpl::write_pages(std::span<const PageWrite> pages) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_no_epoch());
  PCOW_TRY(check_pages(pages));
  WriteReport report;
  while (!pages.empty()) {
    const auto batch = pages.first(batch_size(pages));
    pages = pages.subspan(batch.size());
    PCOW_TRY(write_batch(batch, report));
  }
  resume_ahead();
  return report;
}

}  // namespace pcow
