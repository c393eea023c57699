// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/redo_log.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "pcow/base/crc32c.h"
#include "pcow/base/stream_copy.h"
#include "pcow/base/zero.h"

namespace pcow {

using format::LogRecord;
using format::RecordType;

namespace {

// By system calls, which take their time; by copies, from what is still in the first cache.
constexpr size_t kWrittenAtOnce = 256 * kKiB;
constexpr size_t kCopiedAtOnce = 8 * kKiB;

// Copies the lines of the mask, runs of them at once; returns where the next would go.
void gather_lines(std::span<const std::byte> page, uint64_t mask, std::byte* to) {
  while (mask != 0) {
    const auto first = static_cast<uint64_t>(std::countr_zero(mask));
    const auto count = static_cast<uint64_t>(std::countr_one(mask >> first));
    copy_by_library(to, page.subspan(first * kLineSize, count * kLineSize));
    to += count * kLineSize;
    if (first + count >= kLinesPerPage) break;
    mask &= ~uint64_t{0} << (first + count);
  }
}

}  // namespace

RedoLog::Writer::Writer(RedoLog& log, Epoch epoch, bool hold)
    : log_(&log),
      epoch_(epoch),
      hold_(hold),
      direct_(!hold && log.media_->streams_at_once()),
      buffer_size_(log.media_->streams_at_once() ? kCopiedAtOnce : kWrittenAtOnce),
      next_(log.head_) {}

Result<void> RedoLog::Writer::new_buffer() {
  if (!hold_) PCOW_TRY(store());
  std::unique_ptr<std::byte[]> bytes = std::exchange(log_->spare_, nullptr);
  if (!bytes) bytes = std::make_unique_for_overwrite<std::byte[]>(buffer_size_);
  buffers_.push_back({next_, 0, std::move(bytes)});
  return {};
}

Result<std::byte*> RedoLog::Writer::place_for(uint64_t length) {
  const LogPosition& ring = log_->ring_;
  const auto fits = [&](uint64_t bytes) {
    return !buffers_.empty() && buffers_.back().size + bytes <= buffer_size_;
  };
  if (const uint64_t left = ring.left(next_); left < length) {
    if (!fits(sizeof(LogRecord))) PCOW_TRY(new_buffer());
    Buffer& buffer = buffers_.back();
    seal(buffer.bytes.get() + buffer.size, RecordType::kPad, left, 0, 0);
    buffer.size += sizeof(LogRecord);  // what follows it is not written
    next_ += left;
    PCOW_TRY(new_buffer());
  }
  // A buffer is stored in one piece: it ends where the ring does.
  if (!fits(length) || (next_ % ring.size == 0 && buffers_.back().lsn != next_)) {
    PCOW_TRY(new_buffer());
  }
  Buffer& buffer = buffers_.back();
  std::byte* const place = buffer.bytes.get() + buffer.size;
  buffer.size += length;
  return place;
}

// Of the record at next_, without its checksum.
LogRecord RedoLog::Writer::header_of(RecordType type, uint64_t length, uint64_t target,
                                     uint64_t mask) const {
  LogRecord header{};
  header.magic = format::kRecordMagic;
  header.type = static_cast<uint16_t>(type);
  header.length = static_cast<uint32_t>(length);
  header.generation = log_->ring_.generation;
  header.lsn = next_;
  header.epoch = epoch_.value;
  header.target = target;
  header.mask = mask;
  return header;
}

// `record` is followed by its lines.
void RedoLog::Writer::seal(std::byte* record, RecordType type, uint64_t length, uint64_t target,
                           uint64_t mask) const {
  LogRecord header = header_of(type, length, target, mask);
  std::memcpy(record, &header, sizeof(header));
  header.crc = record_crc({record, type == RecordType::kPad ? sizeof(header) : length});
  std::memcpy(record, &header, sizeof(header));
}

Result<RedoLog::Writer::Added> RedoLog::Writer::lines(uint64_t target, uint64_t mask,
                                                      std::span<const std::byte> page) {
  const uint64_t length = lines_record_size(mask);
  if (direct_ && mask == kAllLines && length <= log_->ring_.left(next_)) {
    return whole_page(target, page);
  }
  // A pad in front of the first record belongs to the transaction as well.
  if (!first_) first_ = next_;
  PCOW_TRY_ASSIGN(std::byte * record, place_for(length));
  gather_lines(page, mask, record + sizeof(LogRecord));
  seal(record, RecordType::kLines, length, target, mask);
  const bool zero = is_zero({record + sizeof(LogRecord), length - sizeof(LogRecord)});
  const uint64_t lsn = next_;
  next_ += length;
  ++records_;
  return Added{lsn, zero};
}

// Past the buffers: its bytes are loaded once and stored once.
Result<RedoLog::Writer::Added> RedoLog::Writer::whole_page(uint64_t target,
                                                           std::span<const std::byte> page) {
  PCOW_TRY(store());
  LogRecord header = header_of(RecordType::kLines, kMaxRecordSize, target, kAllLines);
  const auto header_bytes = std::as_bytes(std::span(&header, 1));
  const uint64_t lsn = next_;
  if (!first_) first_ = lsn;
  next_ += kMaxRecordSize;
  ++records_;
  PCOW_TRY(take_up());
  const uint64_t place = log_->ring_.place(lsn);
  Media& media = *log_->media_;
  PCOW_TRY_ASSIGN(
      const Copied copied,
      media.stream_changing(&StoredBytes::log, place + sizeof(header), page, crc32c(header_bytes)));
  header.crc = copied.crc;
  PCOW_TRY(media.stream(&StoredBytes::log, place, header_bytes));
  return Added{lsn, copied.zero};
}

Result<void> RedoLog::Writer::add_bits(RecordType type, uint64_t target, const BitLine& bits) {
  constexpr uint64_t kLength = sizeof(LogRecord) + kLineSize;
  if (!first_) first_ = next_;
  PCOW_TRY_ASSIGN(std::byte * record, place_for(kLength));
  std::ranges::copy(bytes_of(bits), record + sizeof(LogRecord));
  seal(record, type, kLength, target, 0);
  next_ += kLength;
  return {};
}

Result<void> RedoLog::Writer::zeros(uint64_t window, const BitLine& pages) {
  PCOW_TRY(add_bits(RecordType::kZeros, window, pages));
  ++records_;
  return {};
}

Result<void> RedoLog::Writer::filling(uint64_t segment, const WindowSet& windows) {
  return add_bits(RecordType::kFilling, segment, windows);
}

Result<void> RedoLog::Writer::commit(uint64_t first, uint64_t count) {
  PCOW_TRY_ASSIGN(std::byte * record, place_for(sizeof(LogRecord)));
  seal(record, RecordType::kCommit, sizeof(LogRecord), first, count);
  next_ += sizeof(LogRecord);
  return {};
}

// The log goes up to next_, which is about to be stored.
Result<void> RedoLog::Writer::take_up() {
  if (next_ - log_->ring_.tail > log_->ring_.size) {
    return make_error(Code::kInternal, "the log of '" + log_->media_->file().path() + "' is full");
  }
  if (first_ && !log_->open_) log_->open_ = Open{*first_, 0};
  if (log_->open_) log_->open_->records += records_;
  records_ = 0;
  stored_ += next_ - log_->head_;
  log_->head_ = next_;  // invariant 2: also when the store fails
  return {};
}

Result<void> RedoLog::Writer::store() {
  if (buffers_.empty()) return {};
  PCOW_TRY(take_up());
  Result<void> result;
  for (Buffer& buffer : buffers_) {
    result = log_->media_->stream(&StoredBytes::log, log_->ring_.place(buffer.lsn),
                                  {buffer.bytes.get(), buffer.size});
    if (!result) break;
    log_->spare_ = std::move(buffer.bytes);
  }
  buffers_.clear();
  return result;
}

Result<void> RedoLog::Writer::finish() { return store(); }

uint64_t RedoLog::size_bound(std::span<const Change> changes) {
  uint64_t bytes = sizeof(LogRecord);
  for (const Change& change : changes) bytes += lines_record_size(change.mask);
  return bytes + kMaxRecordSize;  // at most one pad
}

Result<void> RedoLog::reserve(uint64_t bytes) {
  const uint64_t start = head_ % ring_.size;
  const uint64_t end = std::min(start + bytes, ring_.size);
  if (end > reserved_) {
    const bool joins = start <= reserved_;
    const uint64_t from = joins ? reserved_ : start;
    PCOW_TRY(media_->reserve(ring_.offset + from, end - from));
    if (joins) reserved_ = end;
  }
  const uint64_t rest = bytes - (end - start);  // from the start of the ring on
  if (rest <= reserved_) return {};
  PCOW_TRY(media_->reserve(ring_.offset + reserved_, rest - reserved_));
  reserved_ = rest;
  return {};
}

Result<void> RedoLog::append(std::span<const Change> changes, Epoch epoch) {
  Writer writer(*this, epoch, true);
  const Open before = open_.value_or(Open{head_, 0});
  for (const Change& change : changes) {
    PCOW_TRY(writer.lines(change.target, change.mask, change.content->bytes));
  }
  PCOW_TRY(writer.commit(before.first, before.records + changes.size()));
  if (writer.size() > free_bytes()) {
    return make_error(Code::kInternal, "the log of '" + media_->file().path() + "' is full");
  }
  Result<void> result = writer.finish();
  open_.reset();
  PCOW_TRY(std::move(result));
  return media_->flush();
}

Result<void> RedoLog::read_record(uint64_t lsn, uint64_t target, uint64_t mask,
                                  format::Block& page) const {
  std::array<std::byte, kMaxRecordSize> bytes;
  PCOW_TRY_ASSIGN(const std::span<const std::byte> record,
                  media_->look(ring_.place(lsn), std::span(bytes).first(lines_record_size(mask))));
  LogRecord header;
  std::memcpy(&header, record.data(), sizeof(header));
  if (!is_record_at(header, ring_, lsn) ||
      header.type != static_cast<uint16_t>(RecordType::kLines) || header.target != target ||
      header.mask != mask || record_crc(record) != header.crc) {
    return make_error(Code::kCorrupt, "the log of '" + media_->file().path() +
                                          "' changed behind its writer's back at offset " +
                                          std::to_string(ring_.place(lsn)) +
                                          "; see 'pcow-img check', restore the file from a copy");
  }
  expand_lines(record.subspan(sizeof(header)), mask, mask, page.bytes);
  return {};
}

LogPosition RedoLog::emptied(uint64_t generation, uint64_t size, uint64_t offset) const {
  LogPosition next = ring_;
  next.offset = offset;
  next.size = size;
  next.generation = generation;
  next.tail = round_up(head_, size);
  return next;
}

void RedoLog::reset(const LogPosition& position) {
  if (position.offset != ring_.offset) reserved_ = 0;
  ring_ = position;
  head_ = position.tail;
  open_.reset();
}

}  // namespace pcow
