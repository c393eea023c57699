// SPDX-License-Identifier: BSD-3-Clause
//
// Dirty pages by soft-dirty bits, for kernels before 6.7 (Debian 12's). Three weaknesses against
// PAGEMAP_SCAN, all honest and none silent:
//   - the bits are cleared for the whole process at once, so one region per process can use them
//     (a second one is refused), and nobody may store between collect() and rearm();
//   - the kernel reports a whole mapping as written after a part of it was mapped anew: whoever
//     collects compares with the image;
//   - every page table entry is read, 8 bytes a page, also where nothing is mapped.
#include <algorithm>
#include <array>
#include <atomic>
#include <span>

#include "tiering/dirty_tracker.h"
#include "tiering/kernel/pagemap.h"
#include "tiering/kernel/soft_dirty.h"
#include "tiering/page_entry.h"

namespace tiering {
namespace {

constexpr size_t kEntriesPerRead = 2048;

std::atomic<bool> process_has_tracker{false};

PageState state_of(uint64_t entry) {
  if (!is_private_copy(entry)) return {};
  return {.dirty = (entry & kernel::kEntrySoftDirty) != 0,
          .resident = (entry & kernel::kEntryPresent) != 0,
          .huge = false};  // it does not tell
}

class SoftDirtyTracker final : public DirtyTracker {
 public:
  explicit SoftDirtyTracker(kernel::Pagemap pagemap) : pagemap_(std::move(pagemap)) {}
  ~SoftDirtyTracker() override { process_has_tracker = false; }
  SoftDirtyTracker(const SoftDirtyTracker&) = delete;
  SoftDirtyTracker& operator=(const SoftDirtyTracker&) = delete;

  TrackerKind kind() const override { return TrackerKind::kSoftDirty; }
  bool may_report_clean() const override { return true; }
  bool collects_while_written() const override { return false; }

  // The kernel tracks every mapping from its birth.
  pcow::Result<void> attach(AddressRange) override { return {}; }

  pcow::Result<void> collect(AddressRange range, const DirtySink& sink) override {
    return find_dirty(range, sink);
  }

  pcow::Result<void> rearm() override { return kernel::clear_soft_dirty(); }

  pcow::Result<void> inspect(AddressRange range, const StateSink& sink) const override {
    std::array<uint64_t, kEntriesPerRead> entries;
    while (range.length > 0) {
      const uint64_t pages = std::min<uint64_t>(entries.size(), range.length / pcow::kPageSize);
      const auto part = std::span(entries).first(static_cast<size_t>(pages));
      PCOW_TRY(pagemap_.read_entries(range.first_address(), part));
      report_runs(range.start, part, sink);
      range.start += pages * pcow::kPageSize;
      range.length -= pages * pcow::kPageSize;
    }
    return {};
  }

  pcow::Result<void> disarm(AddressRange) override { return {}; }

  bool adopts_pages() const override { return false; }
  pcow::Result<void> adopt(AddressRange, std::byte*) override {
    return pcow::make_error(pcow::Code::kUnsupported,
                            "soft-dirty tracking cannot arm single pages");
  }

 private:
  static void report_runs(std::byte* start, std::span<const uint64_t> entries,
                          const StateSink& sink) {
    for (size_t i = 0; i < entries.size();) {
      const PageState state = state_of(entries[i]);
      size_t next = i + 1;
      while (next < entries.size()) {
        const PageState other = state_of(entries[next]);
        if (other.dirty != state.dirty || other.resident != state.resident) break;
        ++next;
      }
      if (state.dirty || state.resident) {
        sink({start + i * pcow::kPageSize, (next - i) * pcow::kPageSize}, state);
      }
      i = next;
    }
  }

  kernel::Pagemap pagemap_;
};

}  // namespace

pcow::Result<std::unique_ptr<DirtyTracker>> make_soft_dirty_tracker() {
  if (process_has_tracker.exchange(true)) {
    return pcow::make_error(pcow::Code::kUnsupported,
                            "soft-dirty tracking serves one region per process; use a kernel with "
                            "PAGEMAP_SCAN (Linux 6.7) for more");
  }
  // Given back unless a tracker comes of it, also when memory runs out.
  std::unique_ptr<std::atomic<bool>, decltype([](auto* flag) { *flag = false; })> claim(
      &process_has_tracker);
  PCOW_TRY_ASSIGN(const bool usable, kernel::probe_soft_dirty());
  if (!usable) {
    return pcow::make_error(pcow::Code::kUnsupported,
                            "the kernel has no soft-dirty tracking (CONFIG_MEM_SOFT_DIRTY)");
  }
  PCOW_TRY_ASSIGN(kernel::Pagemap pagemap, kernel::Pagemap::open());
  auto tracker = std::make_unique<SoftDirtyTracker>(std::move(pagemap));
  (void)claim.release();
  return tracker;
}

}  // namespace tiering
