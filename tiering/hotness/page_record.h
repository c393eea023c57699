// SPDX-License-Identifier: BSD-3-Clause
//
// What the tracker remembers of one page: 32 bits.
//
//   heat       12 bits  estimated chance of an access in an epoch; kHeatMax means every epoch
//   visits      7 bits  epochs with an access that the estimate rests on, up to kVisitsMax
//   run         6 bits  observed epochs, the last ones, that were alike, up to kRunMax
//   hit         1 bit   they were epochs with an access, not without
//   cool-down   3 bits  epochs until it may be moved again
//   last read   1 bit   the last epoch with an access had no write
//   written     1 bit   in the current epoch
//   read        1 bit   in the current epoch
//
// A page nobody knows anything of is 0. Pure: no clock, no I/O.
#pragma once

#include <array>
#include <cstdint>

namespace tiering {

class PageRecord {
 public:
  static constexpr uint32_t kHeatMax = 4095;
  static constexpr uint32_t kVisitsMax = 127;
  static constexpr uint32_t kRunMax = 63;
  static constexpr uint32_t kCoolDownMax = 7;
  // Bits that a tracker sets in the word itself while an epoch runs.
  static constexpr uint32_t kWritten = 1U << 30;
  static constexpr uint32_t kRead = 1U << 31;

  struct Fields {
    uint32_t heat = 0;
    uint32_t visits = 0;
    uint32_t run = 0;
    bool hit = false;
    uint32_t cool_down = 0;
    bool last_read = false;
  };

  constexpr PageRecord() = default;
  constexpr explicit PageRecord(uint32_t word) : word_(word) {}
  // No access in the current epoch. REQUIRES: every field within its maximum.
  constexpr explicit PageRecord(const Fields& f)
      : word_(f.heat | f.visits << 12 | f.run << 19 | (f.hit ? 1U << 25 : 0U) | f.cool_down << 26 |
              (f.last_read ? 1U << 29 : 0U)) {}

  constexpr uint32_t word() const { return word_; }
  constexpr uint32_t heat() const { return word_ & 0xfff; }
  constexpr uint32_t visits() const { return word_ >> 12 & 0x7f; }
  constexpr uint32_t run() const { return word_ >> 19 & 0x3f; }
  constexpr bool hit() const { return (word_ >> 25 & 1) != 0; }
  constexpr uint32_t cool_down() const { return word_ >> 26 & 7; }
  constexpr bool last_read() const { return (word_ >> 29 & 1) != 0; }
  constexpr bool accessed() const { return (word_ & (kWritten | kRead)) != 0; }
  constexpr bool known() const { return word_ != 0; }
  // Observed epochs since the last access, up to kRunMax.
  constexpr uint32_t idle() const { return hit() ? 0 : run(); }

  // The record with another heat. REQUIRES: heat <= kHeatMax.
  constexpr PageRecord with_heat(uint32_t heat) const {
    return PageRecord((word_ & ~kHeatMax) | heat);
  }
  // The record with another cool-down. REQUIRES: epochs <= kCoolDownMax.
  constexpr PageRecord with_cool_down(uint32_t epochs) const {
    return PageRecord((word_ & ~(7U << 26)) | epochs << 26);
  }

 private:
  uint32_t word_ = 0;
};

// What an epoch does to a record.
//
// The heat estimates the chance p of an access in an epoch, of which each epoch shows one bit. Of
// a page that keeps its habits the mean of all bits is the best estimate, and the more bits the
// better; of a page that has changed them the old bits are wrong. So
//   - an epoch moves the heat by 1 / (visits + 2) of its error, as a mean would, until
//     kVisitsWeighed visits: from then on the estimate forgets exponentially;
//   - a run of equal epochs that had a chance of less than 2^-kSurpriseBits by the estimate means
//     that the page has changed: nothing before the run counts any more.
// The first is why pages near the edge of what fits into DRAM can be told apart, which differ by a
// few percent of their epochs; the second is why a new working set is found within a few epochs.
class Aging {
 public:
  static constexpr uint32_t kVisitsWeighed = 30;
  static constexpr uint32_t kSurpriseBits = 5;

  Aging();

  // Whether an epoch's reads were observed. Writes always are.
  enum class Reads {
    kWatched,
    kUnwatched,  // nobody looked: a page known for its reads stays as it is
    kDoubted,    // nobody has looked for long: it cools a little, without any surprise
  };

  // The record after the epoch.
  PageRecord aged(PageRecord record, Reads reads) const;

 private:
  PageRecord::Fields hit(PageRecord record) const;
  PageRecord::Fields missed(PageRecord record) const;

  // By heat: the shortest run of epochs with an access that surprises. Of epochs without one it is
  // that of kHeatMax - heat.
  std::array<uint32_t, PageRecord::kHeatMax + 1> surprising_run_;
};

}  // namespace tiering
