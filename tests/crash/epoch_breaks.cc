// SPDX-License-Identifier: BSD-3-Clause
//
// Mistakes that a writer of epochs can make.
#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <span>

#include "pcow/base/crc32c.h"
#include "pcow/format/block.h"
#include "tests/crash/breaks.h"
#include "tests/crash/events.h"

namespace crash {
namespace {

namespace format = pcow::format;
using format::LogRecord;
using format::RecordType;

bool is_type(const LogRecord& record, RecordType type) {
  return record.type == static_cast<uint16_t>(type);
}

// Whether a store to the log holds a commit record.
bool commits(const Event& event) {
  if (!to_log(event)) return false;
  for (size_t at = 0; at + sizeof(LogRecord) <= event.bytes.size();) {
    LogRecord record{};
    std::memcpy(&record, event.bytes.data() + at, sizeof(record));
    if (record.magic != format::kRecordMagic || record.length == 0) return false;
    if (is_type(record, RecordType::kCommit)) return true;
    at += record.length;
  }
  return false;
}

// The pages of an epoch go into the log when its commit record is durable already.
void record_before_lines(Events& events) {
  Events changed;
  Events held;
  bool committed = false;
  for (Event& event : events) {
    if (to_log(event) && !commits(event)) {
      held.push_back(std::move(event));
      continue;
    }
    committed |= commits(event);
    const bool fence = is_fence(event);
    const size_t step = event.step;
    changed.push_back(std::move(event));
    if (!fence || !committed) continue;
    committed = false;
    for (Event& late : held) {
      late.step = step;
      changed.push_back(std::move(late));
    }
    held.clear();
  }
  events = std::move(changed);
}

format::Superblock superblock_of(const SparseBytes& state) {
  format::Superblock newest{};
  for (const uint64_t offset : format::kSuperblockOffset) {
    format::Superblock copy{};
    state.read(offset, std::as_writable_bytes(std::span(&copy, 1)));
    if (format::superblock_checksum_ok(copy) && copy.sequence > newest.sequence) newest = copy;
  }
  return newest;
}

// Whether a store to the log says that windows are filled.
bool names_filled(const Event& event) {
  if (!to_log(event) || event.bytes.size() < sizeof(LogRecord)) return false;
  LogRecord record{};
  std::memcpy(&record, event.bytes.data(), sizeof(record));
  return record.magic == format::kRecordMagic && is_type(record, RecordType::kFilling);
}

// Pages are filled before it is durable that they may be.
void fill_before_saying(Events& events) {
  drop_fences(events, [](const Events& since, const Event* next) {
    const bool fills = next != nullptr && (to_data(*next) || next->kind == EventKind::kReserve);
    return fills && std::ranges::any_of(since, names_filled);
  });
}

// No record of that type in the log names anything.
void blank_bits(SparseBytes& state, RecordType type) {
  const format::Superblock superblock = superblock_of(state);
  for (uint64_t lsn = superblock.log_tail; lsn < superblock.log_tail + superblock.log_size;) {
    const uint64_t place = superblock.log_offset + lsn % superblock.log_size;
    std::array<std::byte, sizeof(LogRecord) + pcow::kLineSize> bytes{};
    state.read(place, bytes);
    LogRecord record{};
    std::memcpy(&record, bytes.data(), sizeof(record));
    if (record.magic != format::kRecordMagic || record.lsn != lsn || record.length == 0) break;
    lsn += record.length;
    if (!is_type(record, type)) continue;
    std::fill(bytes.begin() + sizeof(record), bytes.end(), std::byte{0});
    record.crc = 0;
    std::memcpy(bytes.data(), &record, sizeof(record));
    record.crc = pcow::crc32c(bytes);
    std::memcpy(bytes.data(), &record, sizeof(record));
    state.write(place, bytes);
  }
}

// Recovery leaves what an epoch filled that never was.
void forget_filling(SparseBytes& state) { blank_bits(state, RecordType::kFilling); }

// Recovery leaves what became zero as it was.
void forget_zeros(SparseBytes& state) { blank_bits(state, RecordType::kZeros); }

// Pages go to their places before the commit record of their epoch is written.
void checkpoint_before_record(Events& events) {
  size_t commit = events.size();
  for (size_t i = 0; i < events.size(); ++i) {
    if (commits(events[i])) commit = i;
    if (!to_data(events[i]) || commit >= i) continue;
    events[i].step = events[commit].step;
    const auto first = events.begin() + static_cast<std::ptrdiff_t>(commit);
    const auto data = events.begin() + static_cast<std::ptrdiff_t>(i);
    std::rotate(first, data, data + 1);
    ++commit;
  }
}

// In checkpoints: recovery stores metadata as well.
void early_tail(Events& events) {
  drop_fences(events, [](const Events& since, const Event* next) {
    return std::ranges::any_of(since, to_data) && std::ranges::none_of(since, to_metadata) &&
           next != nullptr && to_superblock(*next);
  });
}

// Whether the superblock that is stored says that the log is in segments of its own.
bool moves_log(const Event& event) {
  format::Superblock superblock{};
  if (!to_superblock(event) || event.bytes.size() < sizeof(superblock)) return false;
  std::memcpy(&superblock, event.bytes.data(), sizeof(superblock));
  return superblock.magic == format::kSuperblockMagic &&
         superblock.log_offset >= pcow::kSegmentSize;
}

// The log moves before the segments are its own durably.
void log_moves_early(Events& events) {
  drop_fences(events, [](const Events& since, const Event* next) {
    return std::ranges::any_of(since, to_metadata) && next != nullptr && moves_log(*next);
  });
}

// A record knows only the lines that differ from what is stored at the place of its page: in the
// others an earlier record shows, although the page went back to what is stored there.
void mask_from_window(SparseBytes& state) {
  const format::Superblock superblock = superblock_of(state);
  std::map<uint64_t, std::vector<std::byte>> earlier;  // newest logged content, by image offset
  for (uint64_t lsn = superblock.log_tail; lsn < superblock.log_tail + superblock.log_size;) {
    const uint64_t place = superblock.log_offset + lsn % superblock.log_size;
    LogRecord record{};
    state.read(place, std::as_writable_bytes(std::span(&record, 1)));
    const uint64_t length = record.length;
    if (record.magic != format::kRecordMagic || record.lsn != lsn || length < sizeof(record)) break;
    lsn += length;
    constexpr uint64_t kLongest = sizeof(record) + pcow::kPageSize;
    if (!is_type(record, RecordType::kLines) || record.target < pcow::kSegmentSize ||
        length > kLongest) {
      continue;
    }
    std::vector<std::byte> bytes(length);
    state.read(place, bytes);
    uint32_t crc = record.crc;
    record.crc = 0;
    std::memcpy(bytes.data(), &record, sizeof(record));
    if (pcow::crc32c(bytes) != crc) break;
    std::byte* line = bytes.data() + sizeof(record);
    for (uint64_t index = 0; index < pcow::kLinesPerPage; ++index) {
      if ((record.mask >> index & 1) == 0) continue;
      const uint64_t target = record.target + index * pcow::kLineSize;
      std::vector<std::byte> stored(pcow::kLineSize);
      state.read(target, stored);
      const auto known = earlier.find(target);
      if (known != earlier.end() && std::memcmp(line, stored.data(), stored.size()) == 0) {
        std::memcpy(line, known->second.data(), pcow::kLineSize);
      }
      earlier[target].assign(line, line + pcow::kLineSize);
      line += pcow::kLineSize;
    }
    record.crc = pcow::crc32c(bytes);
    std::memcpy(bytes.data(), &record, sizeof(record));
    state.write(place, bytes);
  }
}

}  // namespace

const std::vector<Break>& epoch_breaks() {
  static const std::vector<Break> kBreaks = {
      {"record-before-lines", "pages are logged after the commit record of their epoch",
       record_before_lines},
      {"checkpoint-before-record", "pages are stored before the commit record of their epoch",
       checkpoint_before_record},
      {"early-tail", "the log's tail moves before what it leaves is stored durably", early_tail},
      {"fill-before-saying", "pages are stored before it is durable that nobody owns them yet",
       fill_before_saying},
      {"forget-filling", "recovery leaves what a cut off epoch stored to pages that nobody owns",
       nullptr, forget_filling},
      {"forget-zeros", "recovery leaves pages as they were that became zero", nullptr,
       forget_zeros},
      {"log-moves-early", "the log moves before its new place is durably for it", log_moves_early},
      {"mask-from-window", "a record lacks lines that went back to what is stored", nullptr,
       mask_from_window},
  };
  return kBreaks;
}

}  // namespace crash
