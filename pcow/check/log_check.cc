// SPDX-License-Identifier: BSD-3-Clause
//
// Reads the whole ring into memory and walks it: simple, and unlike the engine's reader.
#include "pcow/check/log_check.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cstring>
#include <span>
#include <vector>

#include "pcow/base/crc32c.h"

namespace pcow {
namespace {

using format::LogRecord;
using format::RecordType;

struct Ring {
  std::vector<std::byte> bytes;
  uint64_t generation;
};

Result<Ring> load_ring(const ImageReader& file, const format::Superblock& sb) {
  Ring ring{std::vector<std::byte>(sb.log_size), sb.log_generation};
  for (uint64_t at = 0; at < sb.log_size; at += kWindowSize) {
    PCOW_TRY_ASSIGN(const bool there,
                    file.read(sb.log_offset + at, std::span(ring.bytes).subspan(at, kWindowSize)));
    if (!there) break;  // a truncated file: the rest reads as no records
  }
  return ring;
}

// The length the type and mask of a record at `place` call for; 0 if there is no such record.
uint64_t wanted_length(const Ring& ring, const LogRecord& record, uint64_t place) {
  const uint64_t mask = record.mask;
  switch (static_cast<RecordType>(static_cast<uint16_t>(record.type))) {
    case RecordType::kLines:
      if (mask == 0 || record.target % kPageSize != 0) return 0;
      return sizeof(LogRecord) + static_cast<uint64_t>(std::popcount(mask)) * kLineSize;
    case RecordType::kCommit:
      return sizeof(LogRecord);
    case RecordType::kPad:
      return ring.bytes.size() - place;
    case RecordType::kFilling:
      if (mask != 0 || record.target == 0 || record.target % kSegmentSize != 0) return 0;
      return sizeof(LogRecord) + kLineSize;
    case RecordType::kZeros:
      if (mask != 0 || record.target < kSegmentSize || record.target % kWindowSize != 0) return 0;
      return sizeof(LogRecord) + kLineSize;
  }
  return 0;
}

// The record at `lsn`, or nothing. A record has a length > 0 and ends within the ring.
std::optional<LogRecord> record_at(const Ring& ring, uint64_t lsn) {
  const uint64_t place = lsn % ring.bytes.size();
  LogRecord record;
  std::memcpy(&record, ring.bytes.data() + place, sizeof(record));
  if (record.magic != format::kRecordMagic) return std::nullopt;
  const uint64_t length = wanted_length(ring, record, place);
  if (record.lsn != lsn || record.generation != ring.generation || length == 0 ||
      record.length != length || length > ring.bytes.size() - place) {
    return std::nullopt;
  }
  // The content of a pad is whatever the ring held before.
  const bool pad = record.type == static_cast<uint16_t>(RecordType::kPad);
  const uint64_t payload = pad ? 0 : length - sizeof(record);
  LogRecord without_crc = record;
  without_crc.crc = 0;
  uint32_t crc = crc32c(std::as_bytes(std::span(&without_crc, 1)));
  crc = crc32c(std::span(ring.bytes).subspan(place + sizeof(record), payload), crc);
  if (crc != record.crc) return std::nullopt;
  return record;
}

bool has_bit(std::span<const std::byte> bits, uint64_t index) {
  return (bits[index / CHAR_BIT] >> index % CHAR_BIT & std::byte{1}) != std::byte{0};
}

// Pages that a record makes zero: what was logged of them before is void.
void apply_zeros(const Ring& ring, const LogRecord& record, CommittedLog& log) {
  const auto bits =
      std::span(ring.bytes).subspan(record.lsn % ring.bytes.size() + sizeof(LogRecord), kLineSize);
  auto& known = log.zeros[record.target];
  for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
    if (!has_bit(bits, page)) continue;
    known.at(page / CHAR_BIT) |= std::byte{1} << page % CHAR_BIT;
    const uint64_t first = record.target / kLineSize + page * kLinesPerPage;
    log.lines.erase(log.lines.lower_bound(first), log.lines.lower_bound(first + kLinesPerPage));
  }
}

// Lays the records of the transaction that `commit` ends over `log`. False, and nothing is done, if
// it does not count the records it covers.
bool apply_transaction(const Ring& ring, const LogRecord& commit, std::vector<LogRecord>& open,
                       CommittedLog& log) {
  const uint64_t first = commit.target;
  std::erase_if(open, [first](const LogRecord& record) { return record.lsn < first; });
  if (open.size() != commit.mask) return false;
  for (const LogRecord& lines : open) {
    if (lines.type == static_cast<uint16_t>(RecordType::kZeros)) {
      apply_zeros(ring, lines, log);
      continue;
    }
    const std::byte* from = ring.bytes.data() + lines.lsn % ring.bytes.size() + sizeof(LogRecord);
    for (uint64_t line = 0; line < kLinesPerPage; ++line) {
      if ((lines.mask >> line & 1) == 0) continue;
      std::memcpy(log.lines[lines.target / kLineSize + line].data(), from, kLineSize);
      from += kLineSize;
    }
  }
  open.clear();
  log.filling.clear();
  return true;
}

void add_filling(const Ring& ring, const LogRecord& record, CommittedLog& log) {
  const std::byte* bits = ring.bytes.data() + record.lsn % ring.bytes.size() + sizeof(LogRecord);
  for (std::byte& known : log.filling[record.target]) known |= *bits++;
}

}  // namespace

Result<CommittedLog> read_committed_log(const ImageReader& file, const format::Superblock& sb) {
  PCOW_TRY_ASSIGN(const Ring ring, load_ring(file, sb));
  const uint64_t tail = sb.log_tail;
  const uint64_t limit = tail + ring.bytes.size();
  CommittedLog log;
  std::vector<LogRecord> open;  // of lines and zeros, without their commit yet
  uint64_t lsn = tail;
  while (lsn < limit) {
    const std::optional<LogRecord> record = record_at(ring, lsn);
    if (!record) break;
    if (record->type == static_cast<uint16_t>(RecordType::kLines) ||
        record->type == static_cast<uint16_t>(RecordType::kZeros)) {
      open.push_back(*record);
    }
    if (record->type == static_cast<uint16_t>(RecordType::kFilling)) {
      add_filling(ring, *record, log);
    }
    if (record->type == static_cast<uint16_t>(RecordType::kCommit) &&
        !apply_transaction(ring, *record, open, log)) {
      break;
    }
    lsn += record->length;
    ++log.records;
  }
  for (uint64_t later = lsn + kLineSize; later < limit; later += kLineSize) {
    const std::optional<LogRecord> record = record_at(ring, later);
    if (record && record->type == static_cast<uint16_t>(RecordType::kCommit) &&
        record->target > lsn) {
      log.damaged_at = sb.log_offset + lsn % ring.bytes.size();
      break;
    }
  }
  return log;
}

void CommittedLog::lay_over(uint64_t offset, std::span<std::byte> bytes) const {
  const uint64_t end = offset + bytes.size();
  for (auto window = zeros.lower_bound(offset / kWindowSize * kWindowSize);
       window != zeros.end() && window->first < end; ++window) {
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      const uint64_t at = window->first + page * kPageSize;
      if (at >= end || at + kPageSize <= offset || !has_bit(window->second, page)) continue;
      const uint64_t from = std::max(at, offset);
      std::ranges::fill(bytes.subspan(from - offset, std::min(at + kPageSize, end) - from),
                        std::byte{0});
    }
  }
  for (auto line = lines.lower_bound(offset / kLineSize);
       line != lines.end() && line->first * kLineSize < end; ++line) {
    std::memcpy(bytes.data() + (line->first * kLineSize - offset), line->second.data(), kLineSize);
  }
}

}  // namespace pcow
