// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/pin_table.h"

#include <algorithm>
#include <vector>

namespace tiering {

namespace {

pcow::GibIndex gib_of(pcow::PageIndex page) { return pcow::gib_of(pcow::chunk_of(page)); }

}  // namespace

void PinTable::pin(PageRun run) {
  const pcow::MutexLock lock(mutex_);
  pages_.reserve(run.first, run.count);
  ++active_[run];
  pages_.insert(run.first, run.count);
}

bool PinTable::unpin(PageRun run) {
  const pcow::MutexLock lock(mutex_);
  const auto found = active_.lower_bound(run);
  if (found == active_.end() || found->first.first != run.first) return false;
  if (--found->second == 0) active_.erase(found);
  return true;
}

uint64_t PinTable::take(Take what, std::initializer_list<PageSet*> sets) {
  const pcow::MutexLock lock(mutex_);
  if (pages_.empty()) return 0;
  PageSet active;
  for (const auto& [run, times] : active_) {
    active.reserve(run.first, run.count);
    active.insert(run.first, run.count);
  }
  std::vector<pcow::PageIndex> taken;
  taken.reserve(pages_.size());
  pages_.for_each([&](pcow::PageIndex page) {
    if (what == Take::kAll || !active.contains(page)) taken.push_back(page);
  });
  for (PageSet* set : sets) {
    for (const pcow::PageIndex page : taken) set->reserve(gib_of(page));
  }
  // From here on nothing fails.
  for (const pcow::PageIndex page : taken) {
    for (PageSet* set : sets) set->insert(page, 1);
    if (!active.contains(page)) pages_.erase(page);
  }
  return taken.size();
}

PageSet PinTable::active_in(PageRun run) const {
  PageSet pages;
  for (const auto& [pinned, times] : active_) {
    const pcow::PageIndex first = std::max(pinned.first, run.first);
    const pcow::PageIndex end = std::min(pinned.first + pinned.count, run.first + run.count);
    if (first >= end) continue;
    pages.reserve(first, end - first);
    pages.insert(first, end - first);
  }
  return pages;
}

}  // namespace tiering
