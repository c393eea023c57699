// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/log_scan.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string>

namespace pcow {
namespace {

using format::LogRecord;
using format::RecordType;

constexpr uint64_t kStep = 64 * kKiB;  // divides every ring size

bool is_type(const LogRecord& record, RecordType type) {
  return record.type == static_cast<uint16_t>(type);
}

// The ring as a reader sees it: record by record, from blocks that are read once when records are
// asked for in order.
class Reader {
 public:
  Reader(const Media& media, const LogPosition& ring) : media_(&media), ring_(ring) {}

  // The record at `lsn`, or nothing if there is no valid one.
  Result<std::optional<LogRecord>> read(uint64_t lsn) {
    PCOW_TRY_ASSIGN(const std::byte* header, at(lsn, sizeof(LogRecord)));
    LogRecord record;
    std::memcpy(&record, header, sizeof(record));
    if (!is_record_at(record, ring_, lsn)) return std::optional<LogRecord>();
    // What follows the header of a pad means nothing.
    const uint64_t length =
        is_type(record, RecordType::kPad) ? sizeof(LogRecord) : uint64_t{record.length};
    PCOW_TRY_ASSIGN(const std::byte* bytes, at(lsn, length));
    if (record_crc({bytes, length}) != record.crc) return std::optional<LogRecord>();
    return std::optional<LogRecord>(record);
  }
  // The first line of a record that is there, and has one.
  Result<BitLine> bits(uint64_t lsn) {
    PCOW_TRY_ASSIGN(const std::byte* bytes, at(lsn, sizeof(LogRecord) + kLineSize));
    return bits_of({bytes + sizeof(LogRecord), kLineSize});
  }

 private:
  // Valid until the next call. REQUIRES: the range ends within the ring.
  Result<const std::byte*> at(uint64_t lsn, uint64_t length) {
    const bool there =
        lsn >= first_ && lsn - first_ <= block_.size() && length <= block_.size() - (lsn - first_);
    if (!there) {
      block_.resize(std::min(kStep, ring_.left(lsn)));
      first_ = lsn;
      PCOW_TRY(media_->read(ring_.place(lsn), block_));
    }
    return block_.data() + (lsn - first_);
  }

  const Media* media_;
  LogPosition ring_;
  uint64_t first_ = 0;  // LSN of the block
  std::vector<std::byte> block_;
};

// Damage in front of a transaction that began after it: see FORMAT.md, "Reading".
Result<bool> later_transaction_exists(const Media& media, const LogPosition& ring, uint64_t end) {
  std::vector<std::byte> block(kStep);
  Reader reader(media, ring);
  uint64_t lsn = end + kLineSize;
  while (lsn < ring.tail + ring.size) {
    // Most of a ring is a hole.
    const uint64_t place = ring.place(lsn);
    PCOW_TRY_ASSIGN(const uint64_t data, media.file().find_data(place, place + ring.left(lsn)));
    lsn = std::min(lsn + (data - place) / kLineSize * kLineSize, ring.tail + ring.size);
    const uint64_t stop = std::min(lsn / kStep * kStep + kStep, ring.tail + ring.size);
    const auto window = std::span(block).first(stop - lsn);
    PCOW_TRY(media.read(ring.place(lsn), window));
    for (uint64_t at = 0; at < window.size(); at += kLineSize) {
      LogRecord candidate;
      std::memcpy(&candidate, window.data() + at, sizeof(candidate));
      if (candidate.magic != format::kRecordMagic || candidate.lsn != lsn + at ||
          !is_type(candidate, RecordType::kCommit)) {
        continue;
      }
      PCOW_TRY_ASSIGN(const std::optional<LogRecord> record, reader.read(lsn + at));
      if (record && record->target > end) return true;
    }
    lsn = stop;
  }
  return false;
}

// Takes over the records of lines and zeros of a transaction, in order.
class Gatherer {
 public:
  explicit Gatherer(LogContent& content) : content_(&content) {}

  void lines(uint64_t lsn, const LogRecord& record) {
    pending_.push_back({lsn, record.target, record.mask});
  }
  void zeros(uint64_t lsn, const LogRecord& record, const BitLine& pages) {
    zeros_[lsn] = pages;
    pending_.push_back({lsn, record.target, 0});
  }
  // False, and nothing is done, if it does not count the records it covers.
  bool commit(const LogRecord& record) {
    const uint64_t first = record.target;
    std::erase_if(pending_, [first](const Pending& p) { return p.lsn < first; });
    if (pending_.size() != record.mask) return false;
    for (const Pending& p : pending_) p.mask != 0 ? take_lines(p) : take_zeros(p);
    pending_.clear();
    zeros_.clear();
    return true;
  }

 private:
  struct Pending {
    uint64_t lsn;
    uint64_t target;
    uint64_t mask;  // 0: it is of zeros
  };

  // What earlier records have of the pages is void.
  void take_zeros(const Pending& p) {
    const BitLine& zeros = zeros_.at(p.lsn);
    content_->zeros[p.target] |= zeros;
    auto& pages = content_->pages;
    auto page = pages.lower_bound(p.target);
    while (page != pages.end() && page->first - p.target < kWindowSize) {
      const bool zero = zeros[(page->first - p.target) / kPageSize];
      page = zero ? pages.erase(page) : std::next(page);
    }
    last_ = pages.end();
  }
  void take_lines(const Pending& p) {
    auto& pages = content_->pages;
    // Pages that follow each other in the log mostly do so in the image.
    if (last_ != pages.end() && last_->first <= p.target) {
      last_ = pages.try_emplace(std::next(last_), p.target);
    } else {
      last_ = pages.try_emplace(p.target).first;
    }
    std::vector<LoggedLines>& there = last_->second;
    for (LoggedLines& older : there) older.mask &= ~p.mask;
    std::erase_if(there, [](const LoggedLines& older) { return older.mask == 0; });
    there.push_back({p.lsn, p.mask, p.mask});
  }

  LogContent* content_;
  std::vector<Pending> pending_;
  std::map<uint64_t, BitLine> zeros_;  // of those that are pending, by LSN
  std::map<uint64_t, std::vector<LoggedLines>>::iterator last_ = content_->pages.end();
};

}  // namespace

bool LogContent::zeroes(uint64_t target) const {
  const auto window = zeros.find(target / kWindowSize * kWindowSize);
  return window != zeros.end() && window->second[target % kWindowSize / kPageSize];
}

uint64_t LogContent::page_count() const {
  uint64_t count = 0;
  for (const auto& [window, zero_pages] : zeros) count += zero_pages.count();
  for (const auto& [target, lines] : pages) count += zeroes(target) ? 0U : 1U;
  return count;
}

Result<uint64_t> LogContent::lay_over(const Media& media, uint64_t target,
                                      std::span<std::byte> page) const {
  uint64_t mask = 0;
  if (zeroes(target)) {
    std::ranges::fill(page, std::byte{0});
    mask = kAllLines;
  }
  const auto found = pages.find(target);
  if (found == pages.end()) return mask;
  std::array<std::byte, kPageSize> payload;
  for (const LoggedLines& lines : found->second) {
    const uint64_t length = lines_record_size(lines.record_mask) - sizeof(LogRecord);
    const auto bytes = std::span(payload).first(length);
    PCOW_TRY(media.read(ring.place(lines.lsn) + sizeof(LogRecord), bytes));
    expand_lines(bytes, lines.record_mask, lines.mask, page);
    mask |= lines.mask;
  }
  return mask;
}

Result<LogContent> scan_log(const Media& media, const LogPosition& position) {
  Reader reader(media, position);
  LogContent content;
  content.ring = position;
  content.end = position.tail;
  Gatherer gatherer(content);
  uint64_t lsn = position.tail;
  while (lsn < position.tail + position.size) {
    PCOW_TRY_ASSIGN(const std::optional<LogRecord> record, reader.read(lsn));
    if (!record) break;
    const bool commit = is_type(*record, RecordType::kCommit);
    if (is_type(*record, RecordType::kLines)) gatherer.lines(lsn, *record);
    if (is_type(*record, RecordType::kZeros)) {
      PCOW_TRY_ASSIGN(const BitLine pages, reader.bits(lsn));
      gatherer.zeros(lsn, *record, pages);
    }
    if (is_type(*record, RecordType::kFilling)) {
      PCOW_TRY_ASSIGN(const WindowSet windows, reader.bits(lsn));
      content.filling[record->target] |= windows;
    }
    // Not a valid record: the log ends in front of it, so what begins behind it proves damage.
    if (commit && !gatherer.commit(*record)) break;
    lsn += record->length;
    ++content.records;
    if (!commit) continue;
    ++content.transactions;
    content.end = lsn;
    content.filling.clear();
  }
  PCOW_TRY_ASSIGN(const bool damaged, later_transaction_exists(media, position, lsn));
  if (damaged) {
    return make_error(Code::kCorrupt, "the log of '" + media.file().path() +
                                          "' is damaged at offset " +
                                          std::to_string(position.place(lsn)) +
                                          ", in front of a committed transaction; nothing was "
                                          "replayed: restore the file from a copy");
  }
  return content;
}

}  // namespace pcow
