// SPDX-License-Identifier: BSD-3-Clause
//
// Whether what a guest may have made dirty by now still fits in the log. A pure function of what
// was seen when somebody looked, and of the page faults since: a page does not become dirty without
// one.
//
//   share of the room   ⅓                          ⅔                          1
//   dirty at most   ────┼──────────────────────────┼──────────────────────────┤
//                       the epoch is to end        the guest is to rest
//
// What lies behind the second line is for the time that it takes until the guest rests.
#pragma once

#include <chrono>
#include <cstdint>
#include <limits>

namespace tiering {

// What was seen at one moment.
struct LogLook {
  uint64_t room_pages = 0;   // that the log takes until the next commit
  uint64_t dirty_pages = 0;  // that are not logged
  uint64_t faults = 0;       // of the process, until before the pages were counted
  // Pages that there are: no more can be dirty.
  uint64_t pages_max = std::numeric_limits<uint64_t>::max();
};

class LogWatch {
 public:
  void look(const LogLook& look) { look_ = look; }

  // At most so many pages are dirty.
  uint64_t dirty_bound(uint64_t faults) const;
  bool ends_epoch(uint64_t faults) const { return dirty_bound(faults) > third(); }
  bool stops_guest(uint64_t faults) const { return dirty_bound(faults) > 2 * third(); }

  // How long nobody has to ask: less than a guest takes from one of these lines to the next.
  std::chrono::nanoseconds pause(uint64_t faults) const;

 private:
  uint64_t third() const { return look_.room_pages / 3; }

  LogLook look_;
};

}  // namespace tiering
