// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/log_record.h"

#include <array>
#include <climits>
#include <cstring>

#include "pcow/base/crc32c.h"

namespace pcow {

using format::LogRecord;
using format::RecordType;

uint32_t record_crc(std::span<const std::byte> record) {
  constexpr std::array<std::byte, sizeof(uint32_t)> kZero{};
  constexpr size_t kCrcOffset = offsetof(LogRecord, crc);
  uint32_t crc = crc32c(record.first(kCrcOffset));
  crc = crc32c(kZero, crc);
  return crc32c(record.subspan(kCrcOffset + sizeof(uint32_t)), crc);
}

std::array<std::byte, kLineSize> bytes_of(const BitLine& bits) {
  std::array<std::byte, kLineSize> bytes{};
  for (size_t i = 0; i < bits.size(); ++i) {
    if (bits[i]) bytes.at(i / CHAR_BIT) |= std::byte{1} << i % CHAR_BIT;
  }
  return bytes;
}

BitLine bits_of(std::span<const std::byte> bytes) {
  BitLine bits;
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = (bytes[i / CHAR_BIT] >> i % CHAR_BIT & std::byte{1}) != std::byte{0};
  }
  return bits;
}

bool is_record_at(const LogRecord& record, const LogPosition& ring, uint64_t lsn) {
  if (record.magic != format::kRecordMagic || record.generation != ring.generation ||
      record.lsn != lsn || record.length > ring.left(lsn)) {
    return false;
  }
  const uint64_t length = record.length;
  switch (static_cast<RecordType>(static_cast<uint16_t>(record.type))) {
    case RecordType::kLines:
      return record.mask != 0 && record.target % kPageSize == 0 &&
             length == lines_record_size(record.mask);
    case RecordType::kCommit:
      return length == sizeof(LogRecord);
    case RecordType::kPad:
      return length == ring.left(lsn);
    case RecordType::kFilling:
      return record.mask == 0 && record.target != 0 && record.target % kSegmentSize == 0 &&
             length == kFillingRecordSize;
    case RecordType::kZeros:
      return record.mask == 0 && record.target >= kSegmentSize &&
             record.target % kWindowSize == 0 && length == kZerosRecordSize;
  }
  return false;
}

void expand_lines(std::span<const std::byte> payload, uint64_t mask, uint64_t wanted,
                  std::span<std::byte> page) {
  if (mask == kAllLines && wanted == mask) {
    std::memcpy(page.data(), payload.data(), kPageSize);
    return;
  }
  const std::byte* line = payload.data();
  for (; mask != 0; mask &= mask - 1, line += kLineSize) {
    const auto index = static_cast<uint64_t>(std::countr_zero(mask));
    if ((wanted >> index & 1) != 0) std::memcpy(page.data() + index * kLineSize, line, kLineSize);
  }
}

}  // namespace pcow
