// SPDX-License-Identifier: BSD-3-Clause
//
// Epochs: pages go into the log, and become part of the image together (pcow/RECOVERY.md); how that
// ends is in image_commit.cc.
//
// One epoch is one transaction. log_pages() appends its lines records, any number of times, and
// changes the metadata that goes with them (tables, page maps, counters) in a transaction of the
// store that stays open; commit() makes the records durable, then appends the metadata and the
// commit record, and makes these durable. A call of log_pages() is a step of the transaction:
//   1. plan: whose windows, which pages become owned      taken back as a whole if anything fails
//   2. make room in the log: for the records, and for the metadata of the commit()
//   3. say in the log which windows are being filled      so that what 4 and 6 leave there is found
//   4. reserve file space for data and metadata           from the first record that 5 stores on,
//   5. compare, and append the records (zeros: a bit)     a failure is one of the log: `failed_`
//   6. fill: store pages that nobody owned in place
//   7. note where they are
//
// A page that nobody owned needs no record: what is stored at its place becomes part of the image
// when the commit makes it owned. Before that nobody may see it, so recovery, and whoever drops the
// epoch, makes holes of what is not owned in the windows that step 3 named (RECOVERY.md, 29).
//
// What a commit() needs is there before it is called: room in the log (2) and space (3).
#include <algorithm>
#include <array>
#include <cstring>

#include "pcow/base/no_memory.h"
#include "pcow/base/stream_copy.h"
#include "pcow/base/zero.h"
#include "pcow/engine/image_impl.h"
#include "pcow/engine/page_runs.h"

namespace pcow {

namespace {

// Pages of the image that are read at once, to compare.
constexpr size_t kComparedAtOnce = 32;
// Behind a page that changed as a whole others mostly did, too: these lines tell, in place of all.
// At no regular distance, as what programs change within a page may be.
constexpr std::array<uint64_t, 2> kSampledLines = {19, 38};
// Pages whose first bytes are on their way while one is looked at.
constexpr size_t kPrefetched = 8;
// A window that is filled takes so many behind it along in the record that says so: each such
// record is flushed before anything is filled.
constexpr uint64_t kWindowsAtOnce = 32;

uint64_t segment_of(uint64_t place) { return place / kSegmentSize * kSegmentSize; }
uint64_t window_in_segment(uint64_t place) { return place % kSegmentSize / kWindowSize; }

// Lines that differ, one bit each. By vectors of the compiler's, which makes none of this itself.
uint64_t differing_lines(std::span<const std::byte> a, std::span<const std::byte> b) {
  using Vector = uint64_t __attribute__((vector_size(16)));
  uint64_t mask = 0;
  for (uint64_t line = 0; line < kLinesPerPage; ++line) {
    Vector difference{};
    for (size_t at = line * kLineSize; at < (line + 1) * kLineSize; at += sizeof(Vector)) {
      Vector in_a;
      Vector in_b;
      std::memcpy(&in_a, a.data() + at, sizeof(in_a));
      std::memcpy(&in_b, b.data() + at, sizeof(in_b));
      difference |= in_a ^ in_b;
    }
    mask |= uint64_t{(difference[0] | difference[1]) != 0} << line;
  }
  return mask;
}

bool sample_differs(const std::byte* a, const std::byte* b) {
  return std::ranges::all_of(kSampledLines, [&](uint64_t line) {
    return std::memcmp(a + line * kLineSize, b + line * kLineSize, kLineSize) != 0;
  });
}

// What is about to be sampled.
void prefetch_sample(const std::byte* page) {
  for (const uint64_t line : kSampledLines) __builtin_prefetch(page + line * kLineSize);
}

}  // namespace

// What one call of log_pages() is about to do.
struct ImageImpl::LogPlan {
  struct Item {
    const std::byte* data;
    uint64_t place;
    uint64_t mask;  // lines that records of it hold
    bool zero;      // when it was looked at
  };
  std::vector<Item> items;    // to compare with what lies there, and to log
  uint64_t line_items = 0;    // those that take records of their own
  uint64_t zero_windows = 0;  // of the others, which share one
  std::vector<Item> fills;    // to store: nobody owned them when the epoch began
  std::vector<Range> reserve;
  std::vector<ChunkTable> touched;
  std::vector<ChunkIndex> filled;  // that own more pages
  uint64_t new_pages = 0;
  bool hold = false;  // whether the records fit is known when they are made

  uint64_t records_bound() const {
    return line_items * kMaxRecordSize + zero_windows * kZerosRecordSize + filling_bound();
  }
  // Of what says that windows are filled: a record for each segment, and a pad.
  uint64_t filling_bound() const {
    uint64_t segments = 0;
    uint64_t last = 0;
    for (const Item& fill : fills) {
      if (std::exchange(last, segment_of(fill.place)) != segment_of(fill.place)) ++segments;
    }
    return segments == 0 ? 0 : (segments + 1) * kFillingRecordSize;
  }
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
  for (size_t i = 0; i < pages.size(); ++i) {
    if (i + kPrefetched < pages.size()) __builtin_prefetch(pages[i + kPrefetched].data);
    zero[page_in_chunk(pages[i].page)] = is_zero_page(pages[i].data);
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
  const auto filled_pages = filled_.find(window);
  const LoggedPages::Window& logged = logged_.window(window);
  uint64_t added = 0;
  bool any_zero = false;
  for (const PageWrite& write : pages) {
    const uint64_t page = page_in_chunk(write.page);
    const uint64_t place = window + page * kPageSize;
    const bool owned = owns(map, page);
    forget_copy(place);
    if (zero[page] && !owned && !lower.owned[page]) continue;
    if (!owned) {
      set_owned(map, page);
      ++added;
    }
    const bool is_filled = filled_pages != filled_.end() && filled_pages->second[page];
    if (!owned || is_filled) {
      if (!zero[page] && !is_filled) add_range(plan.reserve, place);
      plan.fills.push_back({write.data, place, 0, zero[page]});
      continue;
    }
    const LoggedPages::Record newest = logged.newest(page);
    const bool has_space = newest.mask != 0 && !newest.zero;
    if (!zero[page] && !has_space) add_range(plan.reserve, place);
    plan.items.push_back({write.data, place, newest.mask, zero[page]});
    any_zero |= zero[page];
    if (!zero[page]) ++plan.line_items;
  }
  if (any_zero) ++plan.zero_windows;
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
  return log_.reserve(std::min(plan.records_bound() + commit_bound(), log_.free_bytes()));
}

bool ImageImpl::is_filled(uint64_t place) const {
  const auto window = filled_.find(place / kWindowSize * kWindowSize);
  return window != filled_.end() && window->second[place % kWindowSize / kPageSize];
}

// Durable before anything is filled.
Result<void> ImageImpl::declare_filling(const LogPlan& plan) {
  std::map<uint64_t, WindowSet> missing;
  for (const LogPlan::Item& fill : plan.fills) {
    const uint64_t segment = segment_of(fill.place);
    const uint64_t window = window_in_segment(fill.place);
    const auto known = filling_.find(segment);
    if (known != filling_.end() && known->second[window]) continue;
    if (const auto now = missing.find(segment); now != missing.end() && now->second[window]) {
      continue;
    }
    const uint64_t end = std::min(window + kWindowsAtOnce, kChunksPerSegment);
    for (uint64_t i = window; i < end; ++i) missing[segment].set(i);
  }
  if (missing.empty()) return {};
  if (plan.filling_bound() + commit_bound() > log_.free_bytes()) return log_full();
  RedoLog::Writer writer(log_, durable_epoch_ + 1, false);
  Result<void> result;
  for (const auto& [segment, windows] : missing) {
    if (result) result = writer.filling(segment, windows);
  }
  if (result) result = writer.finish();
  if (result) result = media_->flush();
  if (!result) {
    failed_ = true;
    return result;
  }
  for (const auto& [segment, windows] : missing) filling_[segment] |= windows;
  return {};
}

// Pages that may be changing meanwhile: a torn one is written again before the epoch is committed.
Result<void> ImageImpl::store_fills(const LogPlan& plan) {
  if (media_->granularity() != Granularity::kPage) {
    format::Block now;
    const format::Block zeros{};
    for (const LogPlan::Item& fill : plan.fills) {
      const bool again = is_filled(fill.place);
      if (fill.zero && !again) continue;
      now = zeros;
      if (!fill.zero) std::memcpy(now.bytes.data(), fill.data, kPageSize);
      const uint64_t mask = again ? kAllLines : differing_lines(now.bytes, zeros.bytes);
      PCOW_TRY(store_lines(*media_, &StoredBytes::pages, fill.place, mask, now));
    }
    return {};
  }
  static const format::Block kZeros{};
  std::vector<iovec> parts;
  uint64_t first = 0;
  uint64_t length = 0;
  const auto store_run = [&]() -> Result<void> {
    if (length == 0) return {};
    length = 0;
    return media_->write(&StoredBytes::pages, first, std::exchange(parts, {}));
  };
  for (const LogPlan::Item& fill : plan.fills) {
    if (fill.zero && !is_filled(fill.place)) continue;
    if (fill.place != first + length) PCOW_TRY(store_run());
    if (length == 0) first = fill.place;
    add_part(parts, fill.zero ? kZeros.bytes.data() : fill.data);
    length += kPageSize;
  }
  return store_run();
}

void ImageImpl::note_fills(const LogPlan& plan) {
  for (const LogPlan::Item& fill : plan.fills) {
    if (fill.zero) continue;
    filled_[fill.place / kWindowSize * kWindowSize].set(fill.place % kWindowSize / kPageSize);
  }
}

Error ImageImpl::log_full() const {
  return {Code::kLogFull, 0,
          "the log of '" + media_->file().path() +
              "' has no room for so large an epoch: commit it earlier, or use an image with a "
              "larger log"};
}

// Records on their way to the log, and what is to be noted of them: one for each page, or for those
// pages of a window that are zero.
class ImageImpl::EpochRecords {
 public:
  using Noted = std::vector<std::pair<uint64_t, LoggedPages::Record>>;
  EpochRecords(RedoLog::Writer& writer, Noted& noted) : writer_(&writer), noted_(&noted) {}

  Result<void> add_lines(uint64_t place, uint64_t mask, const format::Block& content) {
    PCOW_TRY_ASSIGN(const RedoLog::Writer::Added added, writer_->lines(place, mask, content.bytes));
    noted_->emplace_back(place, LoggedPages::Record{added.lsn, mask, is_zero(content.bytes)});
    return {};
  }
  // All of a page that may be changing.
  Result<void> add_page(uint64_t place, const std::byte* page) {
    PCOW_TRY_ASSIGN(const RedoLog::Writer::Added added,
                    writer_->lines(place, kAllLines, {page, kPageSize}));
    noted_->emplace_back(place, LoggedPages::Record{added.lsn, kAllLines, added.zero});
    return {};
  }
  Result<void> add_zero(uint64_t place, uint64_t mask) {
    const uint64_t window = place / kWindowSize * kWindowSize;
    if (window != window_) PCOW_TRY(finish());
    window_ = window;
    zeros_.set(place % kWindowSize / kPageSize);
    noted_->emplace_back(place, LoggedPages::Record{0, mask, true});
    return {};
  }
  Result<void> finish() {
    if (zeros_.none()) return {};
    return writer_->zeros(window_, std::exchange(zeros_, {}));
  }

 private:
  RedoLog::Writer* writer_;
  Noted* noted_;
  uint64_t window_ = 0;
  BitLine zeros_;  // of that window
};

// Makes the records of what differs. The pages may be changing: each is copied, then looked at.
// Returns how many pages changed.
Result<uint64_t> ImageImpl::log_plan(
    const LogPlan& plan, RedoLog::Writer& writer,
    std::vector<std::pair<uint64_t, LoggedPages::Record>>& records) const {
  const uint64_t held_max = log_.free_bytes() - std::min(log_.free_bytes(), commit_bound());
  records.reserve(plan.items.size());
  EpochRecords out(writer, records);
  std::vector<format::Block> there(kComparedAtOnce);
  const format::Block zeros{};
  format::Block now;
  uint64_t changed = 0;
  bool whole = false;  // the page in front changed as a whole
  for (size_t first = 0; first < plan.items.size();) {
    // A run of pages that lie side by side.
    const auto& head = plan.items[first];
    size_t count = 1;
    bool any_zero = head.zero;
    while (count < kComparedAtOnce && first + count < plan.items.size() &&
           plan.items[first + count].place == head.place + count * kPageSize) {
      any_zero |= plan.items[first + count].zero;
      ++count;
    }
    // The pages that are not zero have space by now.
    const auto buffer = std::as_writable_bytes(std::span(there).first(count));
    std::span<const std::byte> shown = buffer;
    if (any_zero) {
      PCOW_TRY(media_->read(head.place, buffer));
    } else {
      PCOW_TRY_ASSIGN(shown, media_->look(head.place, buffer));
    }
    for (size_t i = 0; i < count; ++i) {
      const LogPlan::Item& item = plan.items[first + i];
      const auto before = shown.subspan(i * kPageSize, kPageSize);
      if (whole && i + 1 < count) {
        prefetch_sample(before.data() + kPageSize);
        prefetch_sample(plan.items[first + i + 1].data);
      }
      if (plan.hold && writer.size() > held_max) return log_full();
      if (whole && !item.zero && sample_differs(item.data, before.data())) {
        ++changed;
        PCOW_TRY(out.add_page(item.place, item.data));
        continue;
      }
      if (item.zero) {
        now = zeros;
      } else {
        copy_by_library(now.bytes.data(), {item.data, kPageSize});
      }
      const uint64_t mask = differing_lines(now.bytes, before) | item.mask;
      whole = mask == kAllLines;
      if (mask == 0) continue;
      ++changed;
      PCOW_TRY(item.zero ? out.add_zero(item.place, mask) : out.add_lines(item.place, mask, now));
    }
    first += count;
  }
  PCOW_TRY(out.finish());
  if (plan.hold && writer.size() > held_max) return log_full();
  return changed;
}

Result<LogReport> ImageImpl::log_step(std::span<const PageWrite> pages) {
  LogPlan plan;
  PCOW_TRY(plan_log(pages, plan));
  PCOW_TRY(make_room(plan));
  pause_ahead();  // making room may have resumed it
  PCOW_TRY(reserve_log(plan));
  PCOW_TRY(declare_filling(plan));
  PCOW_TRY(reserve_pages(plan.reserve));
  PCOW_TRY(store_.reserve_step_places());
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
  const auto fill = [&]() -> Result<void> {
    PCOW_TRY(store_fills(plan));
    note_fills(plan);
    for (const auto& [place, record] : records) logged_.note(place, record);
    return {};
  };
  if (Result<void> filled = memory_checked(media_->file().path(), fill); !filled) {
    failed_ = true;  // there are records, or data in places, that nobody knows of
    return filled.error();
  }
  note_filled(plan.filled);
  return LogReport{*changed + plan.fills.size(), writer.size()};
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
  // The thread that makes space stands still until the commit: what comes next may be a barrier,
  // with a guest that waits.
  return report;
}

LogState ImageImpl::log_state() const {
  LogState state;
  const LogPosition& ring = log_.position();
  state.size = ring.size;
  state.size_max = format::kLogSizeEnd - kWindowSize;
  state.committed = log_.closed_end() - ring.tail;
  state.under_way = log_.used_bytes() - state.committed;
  const uint64_t taken = state.under_way + commit_bound();
  if (taken < state.size) state.room_pages = (state.size - taken) / kMaxRecordSize;
  return state;
}

}  // namespace pcow
