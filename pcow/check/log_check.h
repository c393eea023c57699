// SPDX-License-Identifier: BSD-3-Clause
//
// The checker's own reader of the log (FORMAT.md, section 10).
#pragma once

#include <pcow/status.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>

#include "pcow/check/image_reader.h"
#include "pcow/format/layout.h"

namespace pcow {

struct CommittedLog {
  // The newest content of every line in a committed transaction, by image offset / 64.
  std::map<uint64_t, std::array<std::byte, kLineSize>> lines;
  // Pages that are zero but for those lines: by window, a bit for each.
  std::map<uint64_t, std::array<std::byte, kLineSize>> zeros;
  // What a transaction that was cut off may have stored to, though nobody owns it: by segment, a
  // bit for each window.
  std::map<uint64_t, std::array<std::byte, kLineSize>> filling;
  uint64_t records = 0;
  std::optional<uint64_t> damaged_at;  // image offset of damage in front of a later transaction

  // Makes of bytes of image space, whole lines, what they are when the log is replayed.
  void lay_over(uint64_t offset, std::span<std::byte> bytes) const;
};

// REQUIRES: log_offset and log_size of `superblock` are valid. Errors: kIo.
Result<CommittedLog> read_committed_log(const ImageReader& file,
                                        const format::Superblock& superblock);

}  // namespace pcow
