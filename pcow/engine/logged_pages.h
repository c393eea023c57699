// SPDX-License-Identifier: BSD-3-Clause
//
// Which pages of guest data have their newest content in the log, and where (pcow/RECOVERY.md).
//
//   nothing --note--> open --commit--> committed --stored--> nothing
//                      └───discard───> as before
//
// A page may have an open and a committed record at once.
//
// Invariants
//  1. A later record of a page holds every line of the earlier ones that are known here, whether it
//     differs from what is stored at the place or not. So the newest record and the place make the
//     page, and the newest committed record alone is enough to bring the place up to date.
//  2. Space for a page is reserved before a record of it that is not all zero is noted, and it is
//     not given back while such a record is the newest.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace pcow {

class LoggedPages {
 public:
  struct Record {
    uint64_t lsn = 0;   // of a page that is not zero
    uint64_t mask = 0;  // lines that it holds; 0: there is no record
    bool zero = false;  // the whole page is zero
  };
  struct Page {
    Record committed;
    Record open;  // of the epoch that is under way

    const Record& newest() const { return open.mask != 0 ? open : committed; }
    bool any() const { return newest().mask != 0; }
  };

  // The pages of one window: mostly few, or nearly all and noted in order.
  class Window {
   public:
    // The newest record of its page of that index; one with mask 0 if there is none.
    Record newest(uint64_t page) const;

   private:
    friend class LoggedPages;
    struct Entry {
      uint64_t page;
      Page records;  // both may have gone
    };
    // Where the page is, or would be.
    std::vector<Entry>::iterator at(uint64_t page);
    bool any() const { return committed_ + open_ > 0; }

    std::vector<Entry> entries_;  // by page
    size_t committed_ = 0;        // entries that have such a record
    size_t open_ = 0;
  };

  bool empty() const {
    return std::ranges::none_of(windows_, [](const auto& each) { return each.second.any(); });
  }
  // Valid until something is noted, committed, discarded or stored.
  const Window& window(uint64_t place) const;
  Record newest(uint64_t place) const { return window(place).newest(page_of(place)); }

  // visit(place, page) of pages that have a record, in the order of their places, from `from` on
  // and in front of `end`, until it returns false or an error.
  template <typename Visit>
  Result<void> for_each(uint64_t from, uint64_t end, const Visit& visit) const;

  void note(uint64_t place, const Record& record);
  // The epoch that is under way is committed, or never happened.
  void commit();
  void discard();
  // The committed record is stored at the page's place.
  void stored(uint64_t place);

 private:
  using Windows = std::map<uint64_t, Window>;  // by place
  static uint64_t window_of(uint64_t place) { return place / kWindowSize * kWindowSize; }
  static uint64_t page_of(uint64_t place) { return place % kWindowSize / kPageSize; }
  // Of a place that is, mostly, in the window of the one before.
  Windows::iterator find(uint64_t place);
  void drop_if_empty(Windows::iterator window);

  Windows windows_;
  Windows::iterator last_ = windows_.end();
  std::vector<uint64_t> open_;  // places that have an open record
};

template <typename Visit>
Result<void> LoggedPages::for_each(uint64_t from, uint64_t end, const Visit& visit) const {
  for (auto window = windows_.lower_bound(window_of(from));
       window != windows_.end() && window->first < end; ++window) {
    for (const Window::Entry& entry : window->second.entries_) {
      const uint64_t place = window->first + entry.page * kPageSize;
      if (place < from || !entry.records.any()) continue;
      if (place >= end) return {};
      PCOW_TRY_ASSIGN(const bool go_on, visit(place, entry.records));
      if (!go_on) return {};
    }
  }
  return {};
}

}  // namespace pcow
