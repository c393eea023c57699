// SPDX-License-Identifier: BSD-3-Clause
//
// Reading a log (FORMAT.md, section 10, "Reading"): one pass that checks every record and notes
// where the newest content of each line is. The content itself stays in the log until it is asked
// for, so the memory this takes goes with the records, not with 4 KiB a page.
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <map>
#include <vector>

#include "pcow/engine/log_record.h"
#include "pcow/media/media.h"

namespace pcow {

// Lines of a page whose newest content is in one record.
struct LoggedLines {
  uint64_t lsn;          // of the record
  uint64_t record_mask;  // the lines it holds
  uint64_t mask;         // those that no later record holds; never 0
};

// What the committed transactions of a log say, later ones over earlier ones.
struct LogContent {
  LogPosition ring;
  std::map<uint64_t, std::vector<LoggedLines>> pages;  // by image offset; each line at most once
  std::map<uint64_t, BitLine> zeros;                   // by window: pages zero but for those lines
  uint64_t records = 0;
  uint64_t transactions = 0;
  uint64_t end = 0;  // LSN behind the last committed transaction
  // By segment: what a transaction that was cut off was filling (FORMAT.md, "Filling").
  std::map<uint64_t, WindowSet> filling;

  bool empty() const { return pages.empty() && zeros.empty(); }
  // Whether it says something of the page at `target`; that all of it is zero, but for lines.
  bool has(uint64_t target) const { return pages.contains(target) || zeroes(target); }
  bool zeroes(uint64_t target) const;
  uint64_t page_count() const;

  // Lays the lines of the page at `target` over `page`, and returns which they are. REQUIRES: the
  // log is as it was when it was scanned. Errors: kIo.
  Result<uint64_t> lay_over(const Media& media, uint64_t target, std::span<std::byte> page) const;
};

// Reads a log. Errors: kIo; kCorrupt when damage lies in front of a later transaction.
Result<LogContent> scan_log(const Media& media, const LogPosition& position);

}  // namespace pcow
