// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/read_sampler.h"

#include <pcow/units.h>
#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "tiering/page_entry.h"

namespace tiering {
namespace {

using pcow::kPageSize;

constexpr uint64_t kPagesPerRead = pcow::kPagesPerChunk;

bool shows_file(uint64_t entry) {
  return (entry & kernel::kEntryPresent) != 0 && !is_private_copy(entry);
}

}  // namespace

pcow::Result<ReadSampler> ReadSampler::create() {
  PCOW_TRY_ASSIGN(kernel::Pagemap pagemap, kernel::Pagemap::open());
  return ReadSampler(std::move(pagemap));
}

pcow::Result<uint64_t> ReadSampler::zap(AddressRange range) {
  std::vector<AddressRange> runs;
  uint64_t pages = 0;
  PCOW_TRY(collect(range, [&](AddressRange run) {
    runs.push_back(run);
    pages += run.length / kPageSize;
  }));
  PCOW_TRY(kernel::drop_pages(runs));
  return pages;
}

pcow::Result<void> ReadSampler::collect(AddressRange range, const Sink& sink) const {
  std::array<uint64_t, kPagesPerRead> buffer;
  AddressRange run{range.start, 0};
  const auto end_run = [&](std::byte* next) {
    if (run.length > 0) sink(run);
    run = {next, 0};
  };
  for (uint64_t at = 0; at < range.length;) {
    const uint64_t count = std::min(kPagesPerRead, (range.length - at) / kPageSize);
    const auto entries = std::span(buffer).first(count);
    PCOW_TRY(pagemap_.read_entries(range.first_address() + at, entries));
    for (const uint64_t entry : entries) {
      at += kPageSize;
      if (shows_file(entry)) {
        run.length += kPageSize;
      } else {
        end_run(range.start + at);
      }
    }
  }
  end_run(range.start);
  return {};
}

}  // namespace tiering
