// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs: pages go into the log, and become part of the image together (pcow/RECOVERY.md).
//
// One epoch is one transaction. log_pages() appends its lines records, any number of times, and
// changes the metadata that goes with them (tables, page maps, counters) in a transaction of the
// store that stays open; commit() makes the records durable, then appends the metadata and the
// commit record, and makes these durable. A call of log_pages() is a step of the transaction:
//   1. plan: whose windows, which pages become owned      taken back as a whole if anything fails
//   2. make room in the log: for the records, and for the metadata of the commit()
//   3. reserve file space for data, metadata and log
//   4. compare, and append the records                    from the first one that is stored on, a
//   5. note where they are                                failure is one of the log: `failed_`
//
// What a commit() needs is there before it is called: room in the log (2) and space (3).
#include <algorithm>
#include <array>
#include <cstring>

#include "pcow/base/no_memory.h"
#include "pcow/base/zero.h"
#include "pcow/engine/image_impl.h"
#include "pcow/engine/page_runs.h"

namespace pcow {

using format::BlockType;

namespace {

// Pages of the image that are read at once, to compare.
constexpr size_t kComparedAtOnce = 32;

// Lines that differ, one bit each.
uint64_t differing_lines(std::span<const std::byte> a, std::span<const std::byte> b) {
  uint64_t mask = 0;
  for (uint64_t line = 0; line < kLinesPerPage; ++line) {
    uint64_t difference = 0;
    for (size_t at = line * kLineSize; at < (line + 1) * kLineSize; at += sizeof(uint64_t)) {
      uint64_t in_a = 0;
      uint64_t in_b = 0;
      std::memcpy(&in_a, a.data() + at, sizeof(in_a));
      std::memcpy(&in_b, b.data() + at, sizeof(in_b));
      difference |= in_a ^ in_b;
    }
    mask |= uint64_t{difference != 0} << line;
  }
  return mask;
}

}  // namespace

// What one call of log_pages() is about to do.
struct ImageImpl::LogPlan {
  struct Item {
    const std::byte* data;
    uint64_t place;
    bool compare;  // with what lies at the place; otherwise that is zero, for nobody owned it
    bool zero;     // when it was looked at
  };
  std::vector<Item> items;
  std::vector<Range> reserve;
  std::vector<ChunkTable> touched;
  std::vector<ChunkIndex> filled;  // that own more pages
  uint64_t new_pages = 0;
  bool hold = false;  // whether the records fit is known when they are made

  uint64_t records_bound() const { return items.size() * kMaxRecordSize; }
};

Result<void> ImageImpl::check_no_epoch() const {
  if (!epoch_under_way()) return {};
  return make_error(Code::kInvalid, "'" + media_->file().path() +
                                        "' has an epoch under way: commit it before anything but "
                                        "logging pages");
}

// All `pages` lie in one chunk of the writer's GiB. As plan_chunk() does for pages in place.
Result<void> ImageImpl::plan_log_chunk(std::span<const PageWrite> pages, GibWriter& writer,
                                       LogPlan& plan) {
  const ChunkIndex chunk = chunk_of(pages.front().page);
  const uint64_t in_segment = chunk_in_segment(chunk);
  PCOW_TRY_ASSIGN(const ChunkPages lower, lower_pages(writer, chunk));
  // The zero that a page is now it need not be when it is copied, so it is looked at once.
  PageMap zero;
  for (const PageWrite& write : pages) {
    zero[page_in_chunk(write.page)] = is_zero_page(write.data);
  }
  if (!writer.own) {
    const bool nothing_to_own = std::all_of(pages.begin(), pages.end(), [&](const PageWrite& w) {
      return zero[page_in_chunk(w.page)] && !lower.owned[page_in_chunk(w.page)];
    });
    if (nothing_to_own) return {};
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
    if (zero[page] && !owned && !lower.owned[page]) continue;
    if (!owned) {
      set_owned(map, page);
      ++added;
    }
    const LoggedPages::Record newest = logged_.newest(place);
    const bool has_space = newest.mask != 0 && !newest.zero;
    if (!zero[page] && !has_space) add_range(plan.reserve, place);
    plan.items.push_back({write.data, place, owned, zero[page]});
  }
  if (added == 0) return {};
  plan.new_pages += added;
  plan.filled.push_back(chunk);
  return writer.own->set_map(in_segment, map, writer.entries.segment_offset());
}

Result<void> ImageImpl::plan_log(std::span<const PageWrite> pages, LogPlan& plan) {
  plan.items.reserve(pages.size());
  std::optional<GibIndex> gib;
  GibWriter writer;
  while (!pages.empty()) {
    const auto chunk_pages = pages.first(same_chunk(pages));
    pages = pages.subspan(chunk_pages.size());
    const GibIndex here = gib_of(chunk_of(chunk_pages.front().page));
    const uint64_t new_pages = plan.new_pages;
    if (gib != here) {
      gib = here;
      PCOW_TRY(plan_gib(here, writer));
    }
    const bool own = writer.own.has_value();
    PCOW_TRY(plan_log_chunk(chunk_pages, writer, plan));
    // A table that was made is there already.
    const bool noted = !plan.touched.empty() && plan.touched.back().gib() == here;
    if (own && !noted && plan.new_pages > new_pages) plan.touched.push_back(*writer.own);
  }
  for (ChunkTable& touched : plan.touched) PCOW_TRY(touched.finish());
  PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
  return count_pages(place, plan.new_pages, 0);
}

// Bytes of log that commit() takes at most: the metadata as it is changed by now, the root, the
// commit record, and a pad.
uint64_t ImageImpl::commit_bound() const {
  return store_.changes_bound() + 2 * kMaxRecordSize + sizeof(format::LogRecord);
}

Result<void> ImageImpl::make_room(LogPlan& plan) {
  // Another pad is in front of the metadata: the ring ends once between tail and head.
  const uint64_t wanted = plan.records_bound() + commit_bound();
  if (wanted <= log_.free_bytes()) return {};
  PCOW_TRY(checkpoint_committed());
  plan.hold = wanted > log_.free_bytes();
  return {};
}

Result<void> ImageImpl::reserve_log(const LogPlan& plan) {
  PCOW_TRY(reserve_pages(plan.reserve));
  PCOW_TRY(store_.reserve_step_places());
  return log_.reserve(std::min(plan.records_bound() + commit_bound(), log_.free_bytes()));
}

// Makes the records of what differs. The pages may be changing: each is copied, then looked at.
// Returns how many pages changed: also one that hides an older layer's needs no record when it is
// zero.
Result<uint64_t> ImageImpl::log_plan(
    const LogPlan& plan, RedoLog::Writer& writer,
    std::vector<std::pair<uint64_t, LoggedPages::Record>>& records) const {
  const uint64_t held_max = log_.free_bytes() - std::min(log_.free_bytes(), commit_bound());
  std::vector<format::Block> there(kComparedAtOnce);
  const format::Block zeros{};
  format::Block now;
  uint64_t changed = 0;
  for (size_t first = 0; first < plan.items.size();) {
    // A run of pages that lie side by side and are read, or one that is not.
    const auto& head = plan.items[first];
    size_t count = 1;
    if (head.compare) {
      while (count < kComparedAtOnce && first + count < plan.items.size() &&
             plan.items[first + count].compare &&
             plan.items[first + count].place == head.place + count * kPageSize) {
        ++count;
      }
      PCOW_TRY(media_->read(head.place, std::as_writable_bytes(std::span(there).first(count))));
    }
    for (size_t i = 0; i < count; ++i) {
      const LogPlan::Item& item = plan.items[first + i];
      if (item.zero) {
        now = zeros;
      } else {
        std::memcpy(now.bytes.data(), item.data, kPageSize);
      }
      const uint64_t mask =
          differing_lines(now.bytes, head.compare ? there[i].bytes : zeros.bytes) |
          logged_.newest(item.place).mask;
      if (mask != 0 || !item.compare) ++changed;
      if (mask == 0) continue;
      PCOW_TRY_ASSIGN(const uint64_t lsn, writer.lines(item.place, mask, now));
      const bool zero = item.zero || is_zero(now.bytes);
      records.emplace_back(item.place, LoggedPages::Record{lsn, mask, zero});
      if (plan.hold && writer.size() > held_max) {
        return make_error(Code::kLogFull,
                          "the log of '" + media_->file().path() +
                              "' has no room for so large an epoch: commit it earlier, or "
                              "use an image with a larger log");
      }
    }
    first += count;
  }
  return changed;
}

Result<LogReport> ImageImpl::log_step(std::span<const PageWrite> pages) {
  LogPlan plan;
  PCOW_TRY(plan_log(pages, plan));
  PCOW_TRY(make_room(plan));
  pause_ahead();  // making room may have resumed it
  PCOW_TRY(reserve_log(plan));
  std::vector<std::pair<uint64_t, LoggedPages::Record>> records;
  RedoLog::Writer writer(log_, durable_epoch_ + 1, plan.hold);
  const Result<uint64_t> changed =
      memory_checked(media_->file().path(), [&] { return log_plan(plan, writer, records); });
  const bool unstored = !changed && !writer.stored_any();
  Result<void> result = changed ? writer.finish() : Result<void>(changed.error());
  if (!result) {
    if (!unstored) failed_ = true;
    return std::move(result).error();
  }
  const auto note_all = [&]() -> Result<void> {
    for (const auto& [place, record] : records) logged_.note(place, record);
    return {};
  };
  if (Result<void> noted = memory_checked(media_->file().path(), note_all); !noted) {
    failed_ = true;  // the log has records that nobody knows of
    return std::move(noted).error();
  }
  note_filled(plan.filled);
  return LogReport{*changed, writer.size()};
}

Result<LogReport> ImageImpl::log_pages(std::span<const PageWrite> pages) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_pages(pages));
  if (pages.empty()) return LogReport{};
  PCOW_TRY(begin_writing());
  LogReport report;
  const auto step = [&]() -> Result<void> {
    store_.begin_step();
    const auto log = [&]() -> Result<void> {
      PCOW_TRY_ASSIGN(report, log_step(pages));
      return {};
    };
    Result<void> logged = memory_checked(media_->file().path(), log);
    if (logged) {
      store_.keep_step();
    } else {
      store_.undo_step();
      allocator_.forget();
    }
    return logged;
  };
  if (Result<void> logged = with_space(step); !logged) {
    if (failed_) forget_epoch();
    return std::move(logged).error();
  }
  resume_ahead();
  return report;
}

// The last step of an epoch: what failed before the log was touched may be tried again.
Result<void> ImageImpl::commit_step() {
  PCOW_TRY_ASSIGN(format::Block * block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  auto& root_ref = block->as<format::RootBlock>();
  root_ref.committed_epoch = root_ref.committed_epoch + 1;
  const std::vector<RedoLog::Change> changes = store_.seal_changes();
  PCOW_TRY(log_.reserve(std::min(RedoLog::size_bound(changes), log_.free_bytes())));
  PCOW_TRY(store_.reserve_places());
  // The data, before the record that vouches for it. What a failing flush left out stays out.
  Result<void> result = media_->flush();
  if (result) result = log_.append(changes, durable_epoch_ + 1);
  if (result) {
    store_.keep_step();
    result = store_.checkpoint(changes);
  }
  if (!result) failed_ = true;
  return result;
}

Result<Epoch> ImageImpl::commit() {
  PCOW_TRY(check_open_for_writing());
  if (epoch_under_way()) {
    const auto step = [&]() -> Result<void> {
      store_.begin_step();
      Result<void> result = memory_checked(media_->file().path(), [&] { return commit_step(); });
      if (!result && !failed_) store_.undo_step();
      return result;
    };
    PCOW_TRY(with_space(step));
    log_holds_data_ |= !logged_.empty();
    logged_.commit();
  } else if (written_since_commit_) {
    PCOW_TRY(media_->flush());  // the data, before the record that vouches for it
    const auto next_epoch = [&]() -> Result<void> {
      PCOW_TRY_ASSIGN(format::Block * block,
                      store_.modify_block(format::kRootOffset, BlockType::kRoot));
      auto& root_ref = block->as<format::RootBlock>();
      root_ref.committed_epoch = root_ref.committed_epoch + 1;
      return commit_transaction();
    };
    PCOW_TRY(with_space([&] { return with_transaction(next_epoch); }));
  } else {
    return durable_epoch_;
  }
  durable_epoch_ = durable_epoch_ + 1;
  written_since_commit_ = false;
  resume_ahead();
  return durable_epoch_;
}

void ImageImpl::forget_epoch() {
  store_.abort();
  allocator_.forget();
  logged_.discard();
  log_.discard_open();
}

Result<void> ImageImpl::drop_epoch() {
  if (!epoch_under_way()) return {};
  forget_epoch();
  // Its records are in front of the next transaction's (RedoLog, invariant 4).
  Result<void> result = media_->flush();
  if (!result) failed_ = true;
  return result;
}

Result<void> ImageImpl::lay_over_logged(uint64_t offset, std::span<std::byte> out) const {
  const auto lay_over = [&](uint64_t place, const LoggedPages::Page& logged, format::Block& page) {
    const LoggedPages::Record& record = logged.newest();
    return log_.read_record(record.lsn, place, record.mask, page);
  };
  return change_pages(logged_.pages(), offset, out, lay_over);
}

Result<PageMap> ImageImpl::logged_pages(ChunkIndex chunk) const {
  if (chunk.value >= virtual_size_ / kChunkSize) {
    return make_error(Code::kInvalid,
                      "chunk " + std::to_string(chunk.value) + " lies beyond the end of the image");
  }
  PageMap pages;
  const LogContent& replayed = store_.overlay();
  if (logged_.empty() && replayed.pages.empty()) return pages;
  PCOW_TRY_ASSIGN(const std::optional<ChunkTable> table, chunk_table(gib_of(chunk)));
  ChunkPages found;
  PCOW_TRY(look_up(table, chunk, found));
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    const uint64_t place = found.place[page];
    pages[page] =
        found.owned[page] && (logged_.pages().contains(place) || replayed.pages.contains(place));
  }
  return pages;
}

LogState ImageImpl::log_state() const {
  LogState state;
  state.size = log_.position().size;
  state.committed = log_.closed_end() - log_.position().tail;
  state.under_way = log_.used_bytes() - state.committed;
  const uint64_t taken = state.under_way + commit_bound();
  if (taken < state.size) state.room_pages = (state.size - taken) / kMaxRecordSize;
  return state;
}

}  // namespace pcow
