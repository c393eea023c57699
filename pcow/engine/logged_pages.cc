// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/logged_pages.h"

#include <utility>

namespace pcow {

std::vector<LoggedPages::Window::Entry>::iterator LoggedPages::Window::at(uint64_t page) {
  if (entries_.empty() || entries_.back().page < page) return entries_.end();
  return std::ranges::lower_bound(entries_, page, {}, &Entry::page);
}

LoggedPages::Record LoggedPages::Window::newest(uint64_t page) const {
  if (entries_.empty() || entries_.back().page < page) return {};
  const auto entry = std::ranges::lower_bound(entries_, page, {}, &Entry::page);
  return entry->page == page ? entry->records.newest() : Record{};
}

const LoggedPages::Window& LoggedPages::window(uint64_t place) const {
  static const Window kNone;
  const auto window = windows_.find(window_of(place));
  return window == windows_.end() ? kNone : window->second;
}

LoggedPages::Windows::iterator LoggedPages::find(uint64_t place) {
  if (last_ == windows_.end() || last_->first != window_of(place)) {
    last_ = windows_.find(window_of(place));
  }
  return last_;
}

void LoggedPages::drop_if_empty(Windows::iterator window) {
  if (window->second.any()) return;
  if (last_ == window) last_ = windows_.end();
  windows_.erase(window);
}

// Without memory half-way nothing is noted: an entry, or a window, may be left that has no record.
void LoggedPages::note(uint64_t place, const Record& record) {
  if (find(place) == windows_.end()) last_ = windows_.try_emplace(window_of(place)).first;
  Window& window = last_->second;
  auto entry = window.at(page_of(place));
  if (entry == window.entries_.end() || entry->page != page_of(place)) {
    entry = window.entries_.insert(entry, {page_of(place), {}});
  }
  if (entry->records.open.mask == 0) {
    open_.push_back(place);
    ++window.open_;
  }
  entry->records.open = record;
}

void LoggedPages::commit() {
  for (const uint64_t place : open_) {
    Window& window = find(place)->second;
    Page& page = window.at(page_of(place))->records;
    if (page.committed.mask == 0) ++window.committed_;
    page.committed = std::exchange(page.open, {});
    --window.open_;
  }
  open_.clear();
}

void LoggedPages::discard() {
  for (const uint64_t place : open_) {
    const auto window = find(place);
    window->second.at(page_of(place))->records.open = {};
    --window->second.open_;
    drop_if_empty(window);
  }
  open_.clear();
}

void LoggedPages::stored(uint64_t place) {
  const auto window = find(place);
  window->second.at(page_of(place))->records.committed = {};
  --window->second.committed_;
  drop_if_empty(window);
}

}  // namespace pcow
