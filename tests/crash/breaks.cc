// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/breaks.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <iterator>

#include "pcow/base/crc32c.h"
#include "pcow/format/block.h"
#include "pcow/format/layout.h"
#include "tests/crash/events.h"

namespace crash {
namespace {

namespace format = pcow::format;

void no_fence(Events& events) {
  drop_fences(events, [](const Events&, const Event*) { return true; });
}

void no_log_fence(Events& events) {
  drop_fences(events,
              [](const Events& since, const Event*) { return std::ranges::any_of(since, to_log); });
}

void no_data_fence(Events& events) {
  drop_fences(events, [](const Events& since, const Event*) {
    return std::ranges::any_of(since, to_data) && std::ranges::none_of(since, to_log);
  });
}

void no_superblock_fence(Events& events) {
  drop_fences(events, [](const Events& since, const Event* next) {
    return !since.empty() && to_superblock(since.back()) && next != nullptr && to_superblock(*next);
  });
}

void no_hole_fence(Events& events) {
  drop_fences(events, [](const Events& since, const Event*) {
    return !since.empty() && punches_data(since.back());
  });
}

void early_trim(Events& events) {
  drop_fences(events, [](const Events& since, const Event* next) {
    return std::ranges::any_of(since, to_metadata) && next != nullptr && to_superblock(*next);
  });
}

void no_file_sync(Events& events) {
  for (Event& event : events) {
    if (event.kind == EventKind::kSync) event.kind = EventKind::kDrain;
  }
}

// One line of each store to metadata is stored and forgotten.
void unflushed_line(Events& events) {
  Events changed;
  for (Event& event : events) {
    const bool split = to_metadata(event) && event.bytes.size() >= pcow::kLineSize;
    if (!split) {
      changed.push_back(std::move(event));
      continue;
    }
    Event line = event;
    const size_t rest = event.bytes.size() - pcow::kLineSize;
    line.offset += rest;
    line.length = pcow::kLineSize;
    line.bytes.erase(line.bytes.begin(), line.bytes.begin() + static_cast<std::ptrdiff_t>(rest));
    line.flushed = false;
    event.bytes.resize(rest);
    event.length = rest;
    if (rest > 0) changed.push_back(std::move(event));
    changed.push_back(std::move(line));
  }
  events = std::move(changed);
}

// Metadata goes to its place before the fence that makes its log record durable.
void metadata_before_log(Events& events) {
  for (size_t i = 1; i + 1 < events.size(); ++i) {
    if (!is_fence(events[i]) || !to_log(events[i - 1])) continue;
    for (size_t at = i; at + 1 < events.size() && to_metadata(events[at + 1]); ++at) {
      std::swap(events[at], events[at + 1]);
    }
  }
}

// Data goes to its place before its ownership is logged.
void data_before_ownership(Events& events) {
  size_t log = 0;  // place of the last store to the log
  for (size_t i = 0; i < events.size(); ++i) {
    if (to_log(events[i])) log = i;
    const bool in_step = log < i && events[log].step == events[i].step && to_log(events[log]);
    if (!to_data(events[i]) || !in_step) continue;
    const auto first = events.begin() + static_cast<std::ptrdiff_t>(log);
    const auto data = events.begin() + static_cast<std::ptrdiff_t>(i);
    std::rotate(first, data, data + 1);
    ++log;
  }
}

// Events that `is_late` picks come behind the next other one that is `due`, in the step of that.
void hold_back(Events& events, const std::function<bool(const Event&)>& is_late,
               const std::function<bool(const Event&)>& is_due) {
  Events changed;
  Events held;
  for (Event& event : events) {
    if (is_late(event)) {
      held.push_back(std::move(event));
      continue;
    }
    const bool due = is_due(event);
    const size_t step = event.step;
    changed.push_back(std::move(event));
    if (!due) continue;
    for (Event& late : held) {
      late.step = step;
      changed.push_back(std::move(late));
    }
    held.clear();
  }
  std::ranges::move(held, std::back_inserter(changed));
  events = std::move(changed);
}

// Data goes to its place when the epoch that vouches for it is logged.
void record_before_data(Events& events) {
  constexpr int kFences = 2;  // the one for the data, the one for the record
  int fences = 0;
  const auto is_late = [&](const Event& event) {
    if (to_data(event)) fences = 0;
    return to_data(event);
  };
  hold_back(events, is_late,
            [&](const Event& event) { return is_fence(event) && ++fences >= kFences; });
}

// Superblocks as they are written, with a right checksum again.
void change_superblocks(Events& events, const std::function<void(format::Superblock&)>& change) {
  for (Event& event : events) {
    if (!to_superblock(event) || event.bytes.size() != sizeof(format::Superblock)) continue;
    format::Superblock superblock{};
    std::memcpy(&superblock, event.bytes.data(), sizeof(superblock));
    change(superblock);
    format::seal_superblock(superblock);
    std::memcpy(event.bytes.data(), &superblock, sizeof(superblock));
  }
}

void same_sequence(Events& events) {
  change_superblocks(events, [](format::Superblock& superblock) { superblock.sequence = 1; });
}

void keeps_holes(Events& events) { std::erase_if(events, punches_data); }

// Pages are given up first, and emptied when that is durable. (Without a note of it, as a trim
// has.)
void holes_after_ownership(Events& events) {
  bool logged = false;
  const auto is_late = [&](const Event& event) {
    const bool late = punches_data(event) && event.length < pcow::kSegmentSize;
    logged &= !late;
    return late;
  };
  hold_back(events, is_late, [&](const Event& event) {
    logged |= to_log(event);
    return logged && is_fence(event);
  });
}

// A segment is emptied at the start of the operation that gives it up.
void empties_early(Events& events) {
  for (size_t i = 0; i < events.size(); ++i) {
    if (events[i].kind != EventKind::kPunch || events[i].length != pcow::kSegmentSize) continue;
    size_t first = i;
    while (first > 0 && events[first - 1].step == events[i].step) --first;
    std::rotate(events.begin() + static_cast<std::ptrdiff_t>(first),
                events.begin() + static_cast<std::ptrdiff_t>(i),
                events.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
}

void keeps_segments(Events& events) {
  std::erase_if(events, [](const Event& event) {
    return event.kind == EventKind::kPunch && event.length == pcow::kSegmentSize;
  });
}

void no_layers_feature(Events& events) {
  change_superblocks(events, [](format::Superblock& superblock) { superblock.incompatible = 0; });
}

// One file of a stripe set is left out when the set is flushed.
void member_not_flushed(Events& events) {
  std::erase_if(events, [](const Event& event) {
    return event.kind == EventKind::kSync && event.offset >= kSecondFile;
  });
}

// The other files of a stripe set get a session that the first knows nothing of.
void session_not_announced(Events& events) {
  change_superblocks(events, [](format::Superblock& superblock) { superblock.next_session = {}; });
}

// A place in the log that looks like a record, whole or torn.
struct RecordBytes {
  format::LogRecord header;      // with crc 0
  uint32_t crc = 0;              // as it is there
  std::vector<std::byte> bytes;  // `header` and what follows it
};

// Visits those of the log; where `change` returns true, its bytes are stored with a right checksum.
void change_records(SparseBytes& state, const std::function<bool(RecordBytes&)>& change) {
  const uint64_t end = pcow::kSegmentSize / pcow::kPageSize;
  uint64_t page = state.next_present(format::kLogOffset / pcow::kPageSize, end);
  for (; page < end; page = state.next_present(page + 1, end)) {
    for (uint64_t at = page * pcow::kPageSize; at < (page + 1) * pcow::kPageSize;
         at += pcow::kLineSize) {
      RecordBytes record{};
      state.read(at, std::as_writable_bytes(std::span(&record.header, 1)));
      const uint64_t length = record.header.length;
      constexpr uint64_t kLongest = sizeof(record.header) + pcow::kPageSize;
      if (record.header.magic != format::kRecordMagic || length > kLongest ||
          length < sizeof(record.header)) {
        continue;
      }
      record.crc = record.header.crc;
      record.header.crc = 0;
      record.bytes.resize(length);
      state.read(at, record.bytes);
      std::memcpy(record.bytes.data(), &record.header, sizeof(record.header));
      if (!change(record)) continue;
      record.header.crc = pcow::crc32c(record.bytes);
      std::memcpy(record.bytes.data(), &record.header, sizeof(record.header));
      state.write(at, record.bytes);
    }
  }
}

// The whole records that have lines.
using LinesVisitor = std::function<void(const format::LogRecord&, std::span<std::byte> lines)>;
void change_lines(SparseBytes& state, const LinesVisitor& change) {
  change_records(state, [&](RecordBytes& record) {
    const auto lines = std::span(record.bytes).subspan(sizeof(record.header));
    if (lines.empty() || pcow::crc32c(record.bytes) != record.crc) return false;
    change(record.header, lines);
    return true;
  });
}

// Pages that hide those of a snapshot are owned before their data is there.
void lose_logged_data(SparseBytes& state) {
  change_lines(state, [](const format::LogRecord& record, std::span<std::byte> lines) {
    if (record.target >= pcow::kSegmentSize) std::ranges::fill(lines, std::byte{0});
  });
}

// Chunk tables are stored, but the log knows only who names them.
void lose_logged_tables(SparseBytes& state) {
  change_lines(state, [](const format::LogRecord& record, std::span<std::byte> lines) {
    format::BlockHeader header{};
    std::memcpy(&header, lines.data(), sizeof(header));
    const bool table = header.magic == format::kBlockMagic &&
                       header.type == static_cast<uint16_t>(format::BlockType::kChunkTable);
    if (table && (record.mask & 1) != 0) std::ranges::fill(lines, std::byte{0});
  });
}

// Every record of the log is taken for whole.
void seal_log(SparseBytes& state) {
  change_records(state, [](RecordBytes&) { return true; });
}

const std::vector<Break>& engine_breaks() {
  static const std::vector<Break> kBreaks = {
      {"no-fence", "nothing is ever made durable", no_fence},
      {"no-log-fence", "a log record is not durable before what it covers is stored", no_log_fence},
      {"no-data-fence", "data is not durable before its epoch is logged", no_data_fence},
      {"no-superblock-fence", "both superblock copies are written at once", no_superblock_fence},
      {"no-hole-fence", "a trim is noted as done before its holes are durable", no_hole_fence},
      {"no-file-sync", "changes of the file's length and space are never durable (pmem)",
       no_file_sync},
      {"unflushed-line", "one line of each metadata store is not flushed (pmem)", unflushed_line},
      {"early-trim", "the log is emptied before what it covers is durable", early_trim},
      {"metadata-before-log", "metadata is stored before its log record is durable",
       metadata_before_log},
      {"data-before-ownership", "data is stored before its ownership is logged",
       data_before_ownership},
      {"record-before-data", "data is stored after its epoch is logged", record_before_data},
      {"same-sequence", "the superblock's sequence number is not advanced", same_sequence},
      {"keep-holes", "dropped chunks keep their data", keeps_holes},
      {"ownership-before-holes", "discarded pages are given up before they are holes, durably",
       holes_after_ownership},
      {"log-not-checked", "a torn log record is taken for whole", nullptr, seal_log},
      {"empty-before-unreachable", "a segment is emptied while a snapshot still shows it",
       empties_early},
      {"keep-segments", "a segment is free before it is empty", keeps_segments},
      {"no-layers-feature", "snapshots are made without saying so in the superblock",
       no_layers_feature},
      {"data-not-logged", "a page over a snapshot's is owned before its data is durable", nullptr,
       lose_logged_data},
      {"table-not-logged", "a layer names a chunk table that is not durable", nullptr,
       lose_logged_tables},
      {"member-not-flushed", "one file of a stripe set is never made durable", member_not_flushed},
      {"session-not-announced", "members get a session that the first file does not announce",
       session_not_announced},
  };
  return kBreaks;
}

}  // namespace

const std::vector<Break>& breaks() {
  static const std::vector<Break> kBreaks = [] {
    std::vector<Break> all = engine_breaks();
    std::ranges::copy(epoch_breaks(), std::back_inserter(all));
    return all;
  }();
  return kBreaks;
}

}  // namespace crash
