// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/redo_log.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace pcow {
namespace {

using format::LogRecord;
using format::RecordType;

std::span<const std::byte> line_of(const format::Block& block, uint64_t line) {
  return std::span(block.bytes).subspan(line * kLineSize, kLineSize);
}

}  // namespace

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
