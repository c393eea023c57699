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
  };
  using Pages = std::map<uint64_t, Page>;  // by image offset

  const Pages& pages() const { return pages_; }
  bool empty() const { return pages_.empty(); }
  // The newest record of a page; one with mask 0 if there is none.
  Record newest(uint64_t place) const {
    const auto it = pages_.find(place);
    return it == pages_.end() ? Record{} : it->second.newest();
  }

  void note(uint64_t place, const Record& record);
  // The epoch that is under way is committed, or never happened.
  void commit();
  void discard();
  // The committed record is stored at the page's place.
  void stored(uint64_t place);

 private:
  Pages pages_;
  Pages::iterator last_ = pages_.end();  // noted last
  std::vector<Pages::iterator> open_;    // that have an open record
};

}  // namespace pcow
