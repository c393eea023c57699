// SPDX-License-Identifier: BSD-3-Clause
//
// Notes every record of the ring in a list, and once its end is known sorts out what is newest:
// simple, and unlike the engine's reader. Memory: 32 bytes a record, 72 a window with zeros.
#include "pcow/check/log_check.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "pcow/base/crc32c.h"

namespace pcow {
namespace {

using format::LogRecord;
using format::RecordType;

// The ring in its file, of which a window at most is in memory.
class Ring {
 public:
  Ring(const ImageReader& file, const format::Superblock& sb)
      : file_(&file),
        offset_(sb.log_offset),
        size_(sb.log_size),
        generation_(sb.log_generation),
        window_(kWindowSize) {}

  const ImageReader& file() const { return *file_; }
  uint64_t offset() const { return offset_; }
  uint64_t size() const { return size_; }
  uint64_t generation() const { return generation_; }

  // What lies at `place`, up to the next call. REQUIRES: it ends within the ring, and is no longer
  // than a window.
  Result<std::span<const std::byte>> bytes(uint64_t place, uint64_t length) {
    if (place < first_ || place + length > first_ + held_) {
      first_ = place;
      held_ = std::min<uint64_t>(window_.size(), size_ - place);
      // What a truncated file does not have reads as no records.
      std::ranges::fill(window_, std::byte{0});
      PCOW_TRY(file_->read(offset_ + place, std::span(window_).first(held_)));
    }
    return std::span<const std::byte>(window_).subspan(place - first_, length);
  }

 private:
  const ImageReader* file_;
  uint64_t offset_;
  uint64_t size_;
  uint64_t generation_;
  std::vector<std::byte> window_;
  uint64_t first_ = 0;  // place of what `window_` holds
  uint64_t held_ = 0;
};

bool is(const LogRecord& record, RecordType type) {
  return record.type == static_cast<uint16_t>(type);
}

// The length the type and mask of a record call for, `left` in front of the end of the ring; 0 if
// there is no such record.
uint64_t wanted_length(const LogRecord& record, uint64_t left) {
  const uint64_t mask = record.mask;
  switch (static_cast<RecordType>(static_cast<uint16_t>(record.type))) {
    case RecordType::kLines:
      if (mask == 0 || record.target % kPageSize != 0) return 0;
      return sizeof(LogRecord) + static_cast<uint64_t>(std::popcount(mask)) * kLineSize;
    case RecordType::kCommit:
      return sizeof(LogRecord);
    case RecordType::kPad:
      return left;
    case RecordType::kFilling:
      if (mask != 0 || record.target == 0 || record.target % kSegmentSize != 0) return 0;
      return sizeof(LogRecord) + kLineSize;
    case RecordType::kZeros:
      if (mask != 0 || record.target < kSegmentSize || record.target % kWindowSize != 0) return 0;
      return sizeof(LogRecord) + kLineSize;
  }
  return 0;
}

struct Record {
  LogRecord header;
  std::span<const std::byte> payload;  // up to the next look at the ring
};

// The record at `lsn`, or nothing. A record has a length > 0 and ends within the ring.
Result<std::optional<Record>> record_at(Ring& ring, uint64_t lsn) {
  const std::optional<Record> none;
  const uint64_t place = lsn % ring.size();
  Record record{};
  LogRecord& header = record.header;
  PCOW_TRY_ASSIGN(const std::span<const std::byte> front, ring.bytes(place, sizeof(header)));
  std::memcpy(&header, front.data(), sizeof(header));
  if (header.magic != format::kRecordMagic) return none;
  const uint64_t left = ring.size() - place;
  const uint64_t length = wanted_length(header, left);
  if (header.lsn != lsn || header.generation != ring.generation() || length == 0 ||
      header.length != length || length > left) {
    return none;
  }
  // The content of a pad is whatever the ring held before.
  const uint64_t used = is(header, RecordType::kPad) ? sizeof(header) : length;
  PCOW_TRY_ASSIGN(const std::span<const std::byte> all, ring.bytes(place, used));
  record.payload = all.subspan(sizeof(header));
  LogRecord without_crc = header;
  without_crc.crc = 0;
  const uint32_t crc = crc32c(std::as_bytes(std::span(&without_crc, 1)));
  if (crc32c(record.payload, crc) != header.crc) return none;
  return std::optional(record);
}

bool has_bit(std::span<const std::byte> bits, uint64_t index) {
  return (bits[index / CHAR_BIT] >> index % CHAR_BIT & std::byte{1}) != std::byte{0};
}

void add_filling(const Record& record, CommittedLog& log) {
  // No image has such a segment, and a log that lies about many takes no memory.
  if (record.header.target >= format::kMaxSegments * kSegmentSize) return;
  const std::byte* bits = record.payload.data();
  for (std::byte& known : log.filling[record.header.target]) known |= *bits++;
}

// The records of lines and zeros behind the first `committed` are without their commit yet. Takes
// those that `commit` covers; false if it does not count them.
bool end_transaction(const LogRecord& commit, size_t& committed, CommittedLog& log) {
  const uint64_t lsn = commit.target;
  const auto open = log.lines.begin() + static_cast<std::ptrdiff_t>(committed);
  const auto first =
      std::ranges::lower_bound(open, log.lines.end(), lsn, {}, &CommittedLog::Lines::lsn);
  if (static_cast<uint64_t>(log.lines.end() - first) != commit.mask) return false;
  log.lines.erase(open, first);
  committed = log.lines.size();
  log.filling.clear();
  return true;
}

// Of the records of one window, which are in order: from the last one back, a page knows which of
// its lines are known already. Zeros, which have no mask, are all lines of their pages.
Result<void> look_for_newest(const ImageReader& file, std::span<CommittedLog::Lines> records,
                             CommittedLog& log) {
  std::array<uint64_t, kPagesPerChunk> known{};
  CommittedLog::Zeros zeros{records.front().page / kWindowSize * kWindowSize, {}};
  bool any_zeros = false;
  for (auto record = records.rbegin(); record != records.rend(); ++record) {
    if (record->mask != 0) {
      uint64_t& lines = known.at(record->page % kWindowSize / kPageSize);
      record->newest = record->mask & ~lines;
      lines |= record->mask;
      continue;
    }
    decltype(zeros.pages) pages;
    PCOW_TRY_ASSIGN(const bool there,
                    file.read(log.offset + record->lsn % log.size + sizeof(LogRecord), pages));
    if (!there) return errno_error(EIO, "cannot read '" + file.path() + "'");
    any_zeros = true;
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      if (has_bit(pages, page)) known.at(page) = ~uint64_t{0};
    }
    for (size_t i = 0; i < pages.size(); ++i) zeros.pages.at(i) |= pages.at(i);
  }
  if (any_zeros) log.zeros.push_back(zeros);
  return {};
}

Result<void> keep_newest(const ImageReader& file, CommittedLog& log) {
  using Lines = CommittedLog::Lines;
  const auto window = [](const Lines& record) { return record.page / kWindowSize; };
  std::ranges::sort(log.lines, {},
                    [&](const Lines& record) { return std::pair(window(record), record.lsn); });
  for (size_t first = 0; first < log.lines.size();) {
    size_t end = first + 1;
    while (end < log.lines.size() && window(log.lines[end]) == window(log.lines[first])) ++end;
    PCOW_TRY(look_for_newest(file, std::span(log.lines).subspan(first, end - first), log));
    first = end;
  }
  std::erase_if(log.lines, [](const Lines& record) { return record.newest == 0; });
  std::ranges::sort(log.lines, {}, &Lines::page);
  return {};
}

// Whether a transaction that begins behind `lsn`, where no record is, was committed. Looks at all
// that is no hole between there and `limit`.
Result<bool> committed_behind(Ring& ring, uint64_t lsn, uint64_t limit) {
  bool found = false;
  for (uint64_t from = lsn + kLineSize; from < limit && !found;) {
    const uint64_t offset = ring.offset() + from % ring.size();
    const uint64_t length = std::min(ring.size() - from % ring.size(), limit - from);
    const auto look_at = [&](uint64_t first, uint64_t end) -> Result<void> {
      for (uint64_t at = first / kLineSize * kLineSize; at < end && !found; at += kLineSize) {
        LogRecord header;
        PCOW_TRY_ASSIGN(const std::span<const std::byte> line,
                        ring.bytes(at - ring.offset(), sizeof(header)));
        std::memcpy(&header, line.data(), sizeof(header));
        // Without the payload of others, which may overlap, all of this is linear.
        if (header.magic != format::kRecordMagic || !is(header, RecordType::kCommit)) continue;
        PCOW_TRY_ASSIGN(const std::optional<Record> record, record_at(ring, from + (at - offset)));
        found = record && record->header.target > lsn;
      }
      return {};
    };
    PCOW_TRY(ring.file().for_each_data(offset, offset + length, look_at));
    from += length;
  }
  return found;
}

}  // namespace

Result<CommittedLog> read_committed_log(const ImageReader& file, const format::Superblock& sb) {
  Ring ring(file, sb);
  CommittedLog log;
  log.offset = sb.log_offset;
  log.size = sb.log_size;
  const uint64_t limit = sb.log_tail + ring.size();
  uint64_t lsn = sb.log_tail;
  size_t committed = 0;  // of log.lines, which holds the records of lines and zeros in order
  while (lsn < limit) {
    PCOW_TRY_ASSIGN(const std::optional<Record> record, record_at(ring, lsn));
    if (!record) break;
    const LogRecord& header = record->header;
    if (is(header, RecordType::kLines) || is(header, RecordType::kZeros)) {
      log.lines.push_back({header.target, lsn, header.mask, 0});
    }
    if (is(header, RecordType::kFilling)) add_filling(*record, log);
    if (is(header, RecordType::kCommit) && !end_transaction(header, committed, log)) break;
    lsn += header.length;
    ++log.records;
  }
  log.lines.resize(committed);
  PCOW_TRY(keep_newest(file, log));
  PCOW_TRY_ASSIGN(const bool damaged, committed_behind(ring, lsn, limit));
  if (damaged) log.damaged_at = ring.offset() + lsn % ring.size();
  return log;
}

Result<void> CommittedLog::lay_over(const ImageReader& file, uint64_t at,
                                    std::span<std::byte> bytes) const {
  const uint64_t end = at + bytes.size();
  for (auto window =
           std::ranges::lower_bound(zeros, at / kWindowSize * kWindowSize, {}, &Zeros::window);
       window != zeros.end() && window->window < end; ++window) {
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      const uint64_t place = window->window + page * kPageSize;
      if (place >= end || place + kPageSize <= at || !has_bit(window->pages, page)) continue;
      const uint64_t from = std::max(place, at);
      std::ranges::fill(bytes.subspan(from - at, std::min(place + kPageSize, end) - from),
                        std::byte{0});
    }
  }
  std::array<std::byte, kPageSize> payload;
  for (auto record = std::ranges::lower_bound(lines, at / kPageSize * kPageSize, {}, &Lines::page);
       record != lines.end() && record->page < end; ++record) {
    const size_t length = static_cast<size_t>(std::popcount(record->mask)) * kLineSize;
    PCOW_TRY_ASSIGN(const bool there, file.read(offset + record->lsn % size + sizeof(LogRecord),
                                                std::span(payload).first(length)));
    if (!there) return errno_error(EIO, "cannot read '" + file.path() + "'");
    const std::byte* from = payload.data();
    for (uint64_t line = 0; line < kLinesPerPage; ++line) {
      if ((record->mask >> line & 1) == 0) continue;
      const uint64_t place = record->page + line * kLineSize;
      if ((record->newest >> line & 1) != 0 && place >= at && place < end) {
        std::memcpy(bytes.data() + (place - at), from, kLineSize);
      }
      from += kLineSize;
    }
  }
  return {};
}

Result<void> CommittedLog::for_each_page(uint64_t first, uint64_t end,
                                         const std::function<Result<void>(uint64_t)>& visit) const {
  auto record = std::ranges::lower_bound(lines, first, {}, &Lines::page);
  std::optional<uint64_t> last;
  for (; record != lines.end() && record->page < end; ++record) {
    if (record->page != last) PCOW_TRY(visit(record->page));
    last = record->page;
  }
  return {};
}

}  // namespace pcow
