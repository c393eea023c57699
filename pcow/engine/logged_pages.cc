// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/logged_pages.h"

#include <iterator>

namespace pcow {

void LoggedPages::note(uint64_t place, const Record& record) {
  // Pages are mostly noted in the order of their places.
  const auto hint = last_ == pages_.end() ? pages_.end() : std::next(last_);
  last_ = pages_.try_emplace(hint, place);
  if (last_->second.open.mask == 0) open_.push_back(last_);
  last_->second.open = record;
}

void LoggedPages::commit() {
  for (const Pages::iterator page : open_) {
    page->second.committed = page->second.open;
    page->second.open = {};
  }
  open_.clear();
}

void LoggedPages::discard() {
  last_ = pages_.end();
  for (const Pages::iterator page : open_) page->second.open = {};
  open_.clear();
  // Also one that note() had no memory for.
  std::erase_if(pages_, [](const auto& page) { return page.second.committed.mask == 0; });
}

void LoggedPages::stored(uint64_t place) {
  const auto page = pages_.find(place);
  page->second.committed = {};
  if (page->second.open.mask != 0) return;
  if (last_ == page) last_ = pages_.end();
  pages_.erase(page);
}

}  // namespace pcow
