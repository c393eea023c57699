// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/redo_log.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

namespace pcow {

using format::LogRecord;
using format::RecordType;

namespace {

constexpr size_t kBufferSize = 256 * kKiB;

// Copies the lines of the mask, runs of them at once; returns where the next would go.
void gather_lines(const format::Block& page, uint64_t mask, std::byte* to) {
  while (mask != 0) {
    const auto first = static_cast<uint64_t>(std::countr_zero(mask));
    const auto count = static_cast<uint64_t>(std::countr_one(mask >> first));
    std::memcpy(to, page.bytes.data() + first * kLineSize, count * kLineSize);
    to += count * kLineSize;
    if (first + count >= kLinesPerPage) break;
    mask &= ~uint64_t{0} << (first + count);
  }
}

}  // namespace

RedoLog::Writer::Writer(RedoLog& log, Epoch epoch, bool hold)
    : log_(&log), epoch_(epoch), hold_(hold), next_(log.head_) {}

Result<void> RedoLog::Writer::new_buffer() {
  if (!hold_) PCOW_TRY(store());
  std::unique_ptr<std::byte[]> bytes = std::exchange(log_->spare_, nullptr);
  if (!bytes) bytes = std::make_unique_for_overwrite<std::byte[]>(kBufferSize);
  buffers_.push_back({next_, 0, std::move(bytes)});
  return {};
}

Result<std::byte*> RedoLog::Writer::place_for(uint64_t length) {
  const LogPosition& ring = log_->ring_;
  const auto fits = [&](uint64_t bytes) {
    return !buffers_.empty() && buffers_.back().size + bytes <= kBufferSize;
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

// `record` is followed by its lines.
void RedoLog::Writer::seal(std::byte* record, RecordType type, uint64_t length, uint64_t target,
                           uint64_t mask) {
  LogRecord header{};
  header.magic = format::kRecordMagic;
  header.type = static_cast<uint16_t>(type);
  header.length = static_cast<uint32_t>(length);
  header.generation = log_->ring_.generation;
  header.lsn = next_;
  header.epoch = epoch_.value;
  header.target = target;
  header.mask = mask;
  std::memcpy(record, &header, sizeof(header));
  header.crc = record_crc({record, type == RecordType::kPad ? sizeof(header) : length});
  std::memcpy(record, &header, sizeof(header));
}

Result<uint64_t> RedoLog::Writer::lines(uint64_t target, uint64_t mask,
                                        const format::Block& content) {
  const uint64_t length = lines_record_size(mask);
  // A pad in front of the first record belongs to the transaction as well.
  if (!first_) first_ = next_;
  PCOW_TRY_ASSIGN(std::byte * record, place_for(length));
  gather_lines(content, mask, record + sizeof(LogRecord));
  seal(record, RecordType::kLines, length, target, mask);
  const uint64_t lsn = next_;
  next_ += length;
  ++records_;
  return lsn;
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

Result<void> RedoLog::Writer::store() {
  if (buffers_.empty()) return {};
  if (next_ - log_->ring_.tail > log_->ring_.size) {
    return make_error(Code::kInternal, "the log of '" + log_->media_->file().path() + "' is full");
  }
  if (first_ && !log_->open_) log_->open_ = Open{*first_, 0};
  if (log_->open_) log_->open_->records += records_;
  records_ = 0;
  stored_ += next_ - log_->head_;
  log_->head_ = next_;  // invariant 2: also when a store below fails
  std::vector<Buffer> buffers = std::exchange(buffers_, {});
  for (Buffer& buffer : buffers) {
    PCOW_TRY(log_->media_->stream(&StoredBytes::log, log_->ring_.place(buffer.lsn),
                                  {buffer.bytes.get(), buffer.size}));
    log_->spare_ = std::move(buffer.bytes);
  }
  return {};
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
    PCOW_TRY(media_->file().reserve(ring_.offset + from, end - from));
    if (joins) reserved_ = end;
  }
  const uint64_t rest = bytes - (end - start);  // from the start of the ring on
  if (rest <= reserved_) return {};
  PCOW_TRY(media_->file().reserve(ring_.offset + reserved_, rest - reserved_));
  reserved_ = rest;
  return {};
}

Result<void> RedoLog::append(std::span<const Change> changes, Epoch epoch) {
  Writer writer(*this, epoch, true);
  const Open before = open_.value_or(Open{head_, 0});
  for (const Change& change : changes) {
    PCOW_TRY(writer.lines(change.target, change.mask, *change.content));
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

LogPosition RedoLog::emptied(uint64_t generation, uint64_t size) const {
  LogPosition next = ring_;
  next.size = size;
  next.generation = generation;
  next.tail = round_up(head_, size);
  return next;
}

void RedoLog::reset(const LogPosition& position) {
  ring_ = position;
  head_ = position.tail;
  open_.reset();
}

}  // namespace pcow
