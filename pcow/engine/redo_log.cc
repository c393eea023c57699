// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/redo_log.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>

#include "pcow/base/crc32c.h"
#include "pcow/base/zero.h"

namespace pcow {
namespace {

using format::LogRecord;
using format::RecordType;

constexpr uint64_t kMaxRecordSize = sizeof(LogRecord) + kPageSize;

std::span<const std::byte> line_of(const format::Block& block, uint64_t line) {
  return std::span(block.bytes).subspan(line * kLineSize, kLineSize);
}

uint32_t record_crc(std::span<const std::byte> record) {
  constexpr std::array<std::byte, sizeof(uint32_t)> kZero{};
  constexpr size_t kCrcOffset = offsetof(LogRecord, crc);
  uint32_t crc = crc32c(record.first(kCrcOffset));
  crc = crc32c(kZero, crc);
  return crc32c(record.subspan(kCrcOffset + sizeof(uint32_t)), crc);
}

// The ring as a reader sees it: record by record.
class Reader {
 public:
  Reader(const Media& media, const LogPosition& ring) : media_(&media), ring_(ring) {}

  // The record at `lsn` with its payload, or nothing if there is no valid one.
  Result<std::optional<LogRecord>> read(uint64_t lsn, std::vector<std::byte>& bytes) const {
    const uint64_t place = lsn % ring_.size;
    LogRecord record;
    PCOW_TRY(media_->read(ring_.offset + place, std::as_writable_bytes(std::span(&record, 1))));
    if (record.magic != format::kRecordMagic || record.generation != ring_.generation ||
        record.lsn != lsn || !length_ok(record, place)) {
      return std::optional<LogRecord>();
    }
    const bool pad = record.type == static_cast<uint16_t>(RecordType::kPad);
    bytes.resize(pad ? sizeof(LogRecord) : uint64_t{record.length});
    PCOW_TRY(media_->read(ring_.offset + place, bytes));
    if (record_crc(bytes) != record.crc) return std::optional<LogRecord>();
    return std::optional<LogRecord>(record);
  }

 private:
  bool length_ok(const LogRecord& record, uint64_t place) const {
    const uint64_t length = record.length;
    if (length > ring_.size - place) return false;
    switch (static_cast<RecordType>(static_cast<uint16_t>(record.type))) {
      case RecordType::kLines:
        return record.mask != 0 && record.target % kPageSize == 0 &&
               length == sizeof(LogRecord) + kLineSize * static_cast<uint64_t>(
                                                             std::popcount(uint64_t{record.mask}));
      case RecordType::kCommit:
        return length == sizeof(LogRecord);
      case RecordType::kPad:
        return length == ring_.size - place;
    }
    return false;
  }

  const Media* media_;
  LogPosition ring_;
};

void apply_lines(const std::vector<std::byte>& record_bytes, const LogRecord& record,
                 std::map<uint64_t, LinePatch>& patches) {
  LinePatch& patch = patches[record.target];
  const std::byte* line = record_bytes.data() + sizeof(LogRecord);
  for (uint64_t mask = record.mask; mask != 0; mask &= mask - 1) {
    const auto index = static_cast<uint64_t>(std::countr_zero(mask));
    std::memcpy(patch.content.bytes.data() + index * kLineSize, line, kLineSize);
    line += kLineSize;
  }
  patch.mask |= record.mask;
}

// Damage in front of a transaction that began after it: see FORMAT.md, "Reading".
Result<bool> later_transaction_exists(const Media& media, const Reader& reader,
                                      const LogPosition& ring, uint64_t end) {
  constexpr uint64_t kStep = 64 * kKiB;  // divides every ring size
  std::vector<std::byte> block(kStep);
  std::vector<std::byte> bytes;
  uint64_t lsn = end + kLineSize;
  while (lsn < ring.tail + ring.size) {
    const uint64_t stop = std::min(lsn / kStep * kStep + kStep, ring.tail + ring.size);
    const auto window = std::span(block).first(stop - lsn);
    PCOW_TRY(media.read(ring.offset + lsn % ring.size, window));
    // Most of a ring is a hole.
    const uint64_t length = is_zero(window) ? 0 : window.size();
    for (uint64_t at = 0; at < length; at += kLineSize) {
      LogRecord candidate;
      std::memcpy(&candidate, window.data() + at, sizeof(candidate));
      if (candidate.magic != format::kRecordMagic || candidate.lsn != lsn + at ||
          candidate.type != static_cast<uint16_t>(RecordType::kCommit)) {
        continue;
      }
      PCOW_TRY_ASSIGN(const std::optional<LogRecord> record, reader.read(lsn + at, bytes));
      if (record && record->target > end) return true;
    }
    lsn = stop;
  }
  return false;
}

}  // namespace

Result<LogContent> scan_log(const Media& media, const LogPosition& position) {
  const Reader reader(media, position);
  LogContent content;
  content.end = position.tail;
  struct Pending {
    uint64_t lsn;
    LogRecord record;
    std::vector<std::byte> bytes;
  };
  std::vector<Pending> pending;
  uint64_t lsn = position.tail;
  while (lsn < position.tail + position.size) {
    std::vector<std::byte> bytes;
    PCOW_TRY_ASSIGN(const std::optional<LogRecord> record, reader.read(lsn, bytes));
    if (!record) break;
    const bool commit = record->type == static_cast<uint16_t>(RecordType::kCommit);
    if (record->type == static_cast<uint16_t>(RecordType::kLines)) {
      pending.push_back({lsn, *record, std::move(bytes)});
    } else if (commit) {
      const uint64_t first = record->target;
      std::erase_if(pending, [first](const Pending& p) { return p.lsn < first; });
      // Not a valid record: the log ends in front of it, so what begins behind it proves damage.
      if (pending.size() != record->mask) break;
      for (const Pending& p : pending) apply_lines(p.bytes, p.record, content.patches);
      pending.clear();
      ++content.transactions;
    }
    lsn += record->length;
    ++content.records;
    if (commit) content.end = lsn;
  }
  PCOW_TRY_ASSIGN(const bool damaged, later_transaction_exists(media, reader, position, lsn));
  if (damaged) {
    return make_error(Code::kCorrupt,
                      "the log of '" + media.file().path() + "' is damaged at offset " +
                          std::to_string(position.offset + lsn % position.size) +
                          ", in front of a committed transaction; nothing was replayed: restore "
                          "the file from a copy");
  }
  return content;
}

uint64_t RedoLog::size_bound(std::span<const Change> changes) {
  uint64_t bytes = sizeof(LogRecord);
  for (const Change& change : changes) {
    bytes += sizeof(LogRecord) + kLineSize * static_cast<uint64_t>(std::popcount(change.mask));
  }
  return bytes + kMaxRecordSize;  // at most one pad
}

Result<void> RedoLog::reserve(uint64_t bytes) {
  const uint64_t place = head_ % ring_.size;
  const uint64_t first = std::min(bytes, ring_.size - place);
  PCOW_TRY(media_->file().reserve(ring_.offset + place, first));
  if (bytes > first) PCOW_TRY(media_->file().reserve(ring_.offset, bytes - first));
  return {};
}

std::vector<std::byte> RedoLog::encode(std::span<const Change> changes, Epoch epoch) const {
  std::vector<std::byte> out;
  out.reserve(size_bound(changes));
  const auto put = [&](RecordType type, uint64_t target, uint64_t mask,
                       const format::Block* content) {
    LogRecord record{};
    record.magic = format::kRecordMagic;
    record.type = static_cast<uint16_t>(type);
    record.generation = ring_.generation;
    record.lsn = head_ + out.size();
    record.epoch = epoch.value;
    record.target = target;
    record.mask = mask;
    const size_t start = out.size();
    const auto header = std::as_bytes(std::span(&record, 1));
    out.insert(out.end(), header.begin(), header.end());
    for (uint64_t rest = content ? mask : 0; rest != 0; rest &= rest - 1) {
      const auto line = line_of(*content, static_cast<uint64_t>(std::countr_zero(rest)));
      out.insert(out.end(), line.begin(), line.end());
    }
    const uint64_t left = ring_.size - (head_ + start) % ring_.size;
    const uint64_t length = type == RecordType::kPad ? left : out.size() - start;
    const Le32 length_le(static_cast<uint32_t>(length));
    std::memcpy(out.data() + start + offsetof(LogRecord, length), &length_le, sizeof(length_le));
    const Le32 crc(record_crc(std::span(out).subspan(start)));
    std::memcpy(out.data() + start + offsetof(LogRecord, crc), &crc, sizeof(crc));
    if (type == RecordType::kPad) out.resize(start + left);
  };
  const auto pad_if_needed = [&](uint64_t length) {
    const uint64_t left = ring_.size - (head_ + out.size()) % ring_.size;
    if (left < length) put(RecordType::kPad, 0, 0, nullptr);
  };
  for (const Change& change : changes) {
    pad_if_needed(sizeof(LogRecord) +
                  kLineSize * static_cast<uint64_t>(std::popcount(change.mask)));
    put(RecordType::kLines, change.target, change.mask, change.content);
  }
  put(RecordType::kCommit, head_, changes.size(), nullptr);  // one line: always fits
  return out;
}

Result<void> RedoLog::append(std::span<const Change> changes, Epoch epoch) {
  const std::vector<std::byte> bytes = encode(changes, epoch);
  if (bytes.size() > free_bytes()) {
    return make_error(Code::kInternal, "the log of '" + media_->file().path() + "' is full");
  }
  const uint64_t place = head_ % ring_.size;
  const auto all = std::span(bytes);
  const uint64_t first = std::min<uint64_t>(all.size(), ring_.size - place);
  head_ += bytes.size();  // invariant 2: also when a store below fails
  PCOW_TRY(media_->write(ring_.offset + place, all.first(first)));
  if (first < all.size()) PCOW_TRY(media_->write(ring_.offset, all.subspan(first)));
  return media_->flush();
}

LogPosition RedoLog::emptied(uint64_t generation) const {
  LogPosition next = ring_;
  next.generation = generation;
  next.tail = round_up(head_, ring_.size);
  return next;
}

void RedoLog::reset(const LogPosition& position) {
  ring_ = position;
  head_ = position.tail;
}

}  // namespace pcow
