// SPDX-License-Identifier: BSD-3-Clause
//
// The checker's own reader of the log (FORMAT.md, section 10).
#pragma once

#include <pcow/status.h>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "pcow/check/image_reader.h"
#include "pcow/format/layout.h"

namespace pcow {

// What the committed transactions of a log say. It says where the content of lines is, and does not
// hold it: a log may be larger than memory.
struct CommittedLog {
  // Lines of one page in one record.
  struct Lines {
    uint64_t page;    // image offset
    uint64_t lsn;     // of the record
    uint64_t mask;    // of the record
    uint64_t newest;  // of the mask: those that no later record replaces
  };
  // Pages of one window that are zero but for such lines, a bit for each.
  struct Zeros {
    uint64_t window;  // image offset
    std::array<std::byte, kLineSize> pages;
  };
  uint64_t offset = 0;  // of the ring
  uint64_t size = 0;
  std::vector<Lines> lines;  // those with newest lines, by page: each line of a page is in one
  std::vector<Zeros> zeros;  // by window
  // What a transaction that was cut off may have stored to, though nobody owns it: by segment, a
  // bit for each window.
  std::map<uint64_t, std::array<std::byte, kLineSize>> filling;
  uint64_t records = 0;
  std::optional<uint64_t> damaged_at;  // image offset of damage in front of a later transaction

  // Makes of bytes of image space, whole lines below 2^64, what they are when the log is replayed.
  // `file`: the one that the log was read from. Errors: kIo.
  Result<void> lay_over(const ImageReader& file, uint64_t at, std::span<std::byte> bytes) const;
  // Calls `visit` with the image offset of each page of [first, end) that has lines here,
  // ascending.
  Result<void> for_each_page(uint64_t first, uint64_t end,
                             const std::function<Result<void>(uint64_t)>& visit) const;
};

// REQUIRES: log_offset and log_size of `superblock` are valid. Errors: kIo.
Result<CommittedLog> read_committed_log(const ImageReader& file,
                                        const format::Superblock& superblock);

}  // namespace pcow
