// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that reads guest pages (content.h).
#include <utility>

#include "pcow/base/no_memory.h"
#include "pcow/check/checker.h"

namespace pcow {

// A window at a time. A hole in the file is a page of zeros that is owned.
Result<void> Checker::visit_content(const Table& table, const OwnedPages& owned) const {
  if (!visit_ || table.layer != root_.active_layer) return {};
  std::vector<std::byte> data(kWindowSize);
  for (uint64_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    const auto first = owned.begin() + static_cast<std::ptrdiff_t>(chunk * kPagesPerChunk);
    if (std::find(first, first + kPagesPerChunk, true) == first + kPagesPerChunk) continue;
    PCOW_TRY_ASSIGN(const bool there, read(table.segment + chunk * kWindowSize, data));
    if (!there) continue;  // behind the end of a truncated file, which is reported
    const PageIndex first_page(table.gib * kPagesPerSegment + chunk * kPagesPerChunk);
    for (uint64_t page = 0; page < kPagesPerChunk; ++page) {
      if (!first[static_cast<std::ptrdiff_t>(page)]) continue;
      visit_(first_page + page, std::span(data).subspan(page * kPageSize, kPageSize));
    }
  }
  return {};
}

Result<CheckReport> visit_pages(const std::string& path, const PageVisitor& visit) {
  return memory_checked(path, [&]() -> Result<CheckReport> {
    PCOW_TRY_ASSIGN(File file, File::open(path, File::Mode::kRead));
    PCOW_TRY(file.lock(false));
    ImageReader reader(std::move(file), false);
    const Progress no_progress;
    Checker checker(reader, no_progress);
    checker.visit_pages(visit);
    return checker.run();
  });
}

}  // namespace pcow
