// SPDX-License-Identifier: BSD-3-Clause
//
// Records of a log as a test wants them, with right checksums.
#pragma once

#include <cstring>
#include <optional>
#include <span>
#include <string>

#include "pcow/base/crc32c.h"
#include "pcow/format/layout.h"

namespace pcow {

struct RecordFields {
  format::RecordType type;
  uint64_t generation;
  uint64_t lsn;
  uint64_t target = 0;
  uint64_t mask = 0;
};

// No `length`: as the payload says.
inline std::string log_record(const RecordFields& fields, const std::string& payload = "",
                              std::optional<uint32_t> length = {}) {
  format::LogRecord record{};
  record.magic = format::kRecordMagic;
  record.type = static_cast<uint16_t>(fields.type);
  record.length = length.value_or(static_cast<uint32_t>(sizeof(record) + payload.size()));
  record.generation = fields.generation;
  record.lsn = fields.lsn;
  record.target = fields.target;
  record.mask = fields.mask;
  std::string bytes(reinterpret_cast<char*>(&record), sizeof(record));
  bytes += payload;
  record.crc = crc32c(std::as_bytes(std::span(bytes)));
  std::memcpy(bytes.data(), &record, sizeof(record));
  return bytes;
}

}  // namespace pcow
