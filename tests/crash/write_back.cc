// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/write_back.h"

#include <algorithm>
#include <cstring>

namespace crash {

namespace {

constexpr size_t kWord = 8;

void tear(std::vector<std::byte>& content, const std::vector<std::byte>& next, uint8_t words) {
  for (size_t word = 0; word < kPmemUnit / kWord; ++word) {
    if ((words >> word & 1) == 0) continue;
    std::memcpy(content.data() + word * kWord, next.data() + word * kWord, kWord);
  }
}

}  // namespace

void WriteBack::apply(const Event& event, size_t number) {
  flat_valid_ = false;
  switch (event.kind) {
    case EventKind::kStore:
      return store(event, number);
    case EventKind::kPunch:
      punch(event, number);
      [[fallthrough]];
    case EventKind::kReserve:
    case EventKind::kResize:
      changes_.at(file_at(event.offset)).push_back(event);
      change_events_.at(file_at(event.offset)).push_back(number);
      return;
    case EventKind::kDrain:
      return drain();
    case EventKind::kSync:
      return sync(file_at(event.offset));
  }
}

std::vector<std::byte> WriteBack::newest(uint64_t unit) const {
  if (const auto it = units_.find(unit); it != units_.end()) return it->second.back().content;
  std::vector<std::byte> content(unit_size(kind_));
  durable_.read(unit * unit_size(kind_), content);
  return content;
}

void WriteBack::add_version(uint64_t unit, UnitVersion version) {
  // A store that changes nothing leaves nothing to choose, but it flushes the line.
  const auto it = units_.find(unit);
  if (version.content == newest(unit)) {
    if (it != units_.end() && !version.by_sync && version.flushed) {
      it->second.back().by_sync = false;
      it->second.back().flushed = true;
    }
    return;
  }
  units_[unit].push_back(std::move(version));
}

void WriteBack::store(const Event& event, size_t number) {
  const size_t size = unit_size(kind_);
  const uint64_t end = event.offset + event.bytes.size();
  for (uint64_t at = event.offset; at < end;) {
    const uint64_t unit = at / size;
    const size_t step = std::min<size_t>(end - at, (unit + 1) * size - at);
    std::vector<std::byte> content = newest(unit);
    std::memcpy(content.data() + at % size, event.bytes.data() + (at - event.offset), step);
    add_version(unit, {number, false, event.flushed, std::move(content)});
    at += step;
  }
}

void WriteBack::punch(const Event& event, size_t number) {
  const size_t size = unit_size(kind_);
  const uint64_t first = event.offset / size;
  const uint64_t end = (event.offset + event.length) / size;
  const auto zero = [&](uint64_t unit) {
    add_version(unit, {number, true, true, std::vector<std::byte>(size)});
  };
  const uint64_t units_per_page = pcow::kPageSize / size;
  const uint64_t end_page = (end + units_per_page - 1) / units_per_page;
  for (uint64_t page = durable_.next_present(first / units_per_page, end_page); page < end_page;
       page = durable_.next_present(page + 1, end_page)) {
    const uint64_t stop = std::min(end, (page + 1) * units_per_page);
    for (uint64_t unit = std::max(first, page * units_per_page); unit < stop; ++unit) zero(unit);
  }
  for (auto it = units_.lower_bound(first); it != units_.end() && it->first < end; ++it) {
    zero(it->first);
  }
}

// Of each unit, what a flushed store left; a hole punched since is not in a mapping's power.
void WriteBack::drain() {
  if (kind_ == MediumKind::kPage) return;
  for (auto it = units_.begin(); it != units_.end();) {
    History& history = it->second;
    const auto last = std::find_if(history.rbegin(), history.rend(),
                                   [](const UnitVersion& v) { return !v.by_sync && v.flushed; });
    if (last != history.rend()) {
      durable_.write(it->first * unit_size(kind_), last->content);
      history.erase(history.begin(), last.base());
    }
    it = history.empty() ? units_.erase(it) : std::next(it);
  }
}

// Of one file.
void WriteBack::sync(size_t file) {
  const auto middle = units_.lower_bound(kSecondFile / unit_size(kind_));
  const auto first = file == 0 ? units_.begin() : middle;
  const auto last = file == 0 ? middle : units_.end();
  for (auto it = first; it != last; ++it) {
    durable_.write(it->first * unit_size(kind_), it->second.back().content);
  }
  units_.erase(first, last);
  for (const Event& change : changes_.at(file)) change_file(durable_, change);
  durable_.drop_beyond_size();
  changes_.at(file).clear();
  change_events_.at(file).clear();
}

void WriteBack::change_file(SparseBytes& bytes, const Event& change) {
  switch (change.kind) {
    case EventKind::kReserve:
      return bytes.reserve(change.offset, change.length);
    case EventKind::kPunch:
      return bytes.drop_zero_pages(change.offset, change.length);
    case EventKind::kResize:
      bytes.size_at(change.offset) = change.length;
      return;
    default:
      return;
  }
}

const std::vector<std::pair<uint64_t, History>>& WriteBack::pending_units() {
  if (!flat_valid_) flat_.assign(units_.begin(), units_.end());
  flat_valid_ = true;
  return flat_;
}

std::vector<std::byte> WriteBack::landed(size_t unit, size_t versions) {
  const auto& [number, history] = pending_units()[unit];
  if (versions > 0) return history[versions - 1].content;
  std::vector<std::byte> content(unit_size(kind_));
  durable_.read(number * content.size(), content);
  return content;
}

Choice WriteBack::nothing_landed() { return {std::vector<size_t>(pending_units().size()), {}}; }

Choice WriteBack::everything_landed() {
  Choice choice;
  for (const auto& [unit, history] : pending_units()) choice.landed.push_back(history.size());
  choice.file_changes = pending_file_changes();
  return choice;
}

SparseBytes WriteBack::state(const Choice& choice) {
  const auto& units = pending_units();
  const size_t size = unit_size(kind_);
  SparseBytes bytes = durable_;
  for (size_t i = 0; i < units.size(); ++i) {
    if (choice.landed[i] == 0) continue;
    bytes.write(units[i].first * size, units[i].second[choice.landed[i] - 1].content);
  }
  for (const Choice::Torn& torn : choice.torn) {
    const auto& [unit, history] = units[torn.unit];
    std::vector<std::byte> content(size);
    bytes.read(unit * size, content);
    tear(content, history.at(choice.landed[torn.unit]).content, torn.words);
    bytes.write(unit * size, content);
  }
  for (size_t file = 0; file < changes_.size(); ++file) {
    for (size_t i = 0; i < choice.file_changes[file]; ++i) change_file(bytes, changes_[file][i]);
  }
  bytes.drop_beyond_size();
  return bytes;
}

std::string WriteBack::describe(const Choice& choice) {
  constexpr size_t kShownMax = 24;
  const auto& units = pending_units();
  std::string text = "file changes";
  for (size_t file = 0; file < changes_.size(); ++file) {
    text += " " + std::to_string(choice.file_changes[file]) + "/" +
            std::to_string(changes_[file].size());
  }
  text += ", landed versions of units at offset";
  for (size_t i = 0; i < units.size() && i < kShownMax; ++i) {
    text += " " + std::to_string(units[i].first * unit_size(kind_)) + ":" +
            std::to_string(choice.landed[i]) + "/" + std::to_string(units[i].second.size());
  }
  if (units.size() > kShownMax) {
    text += " and " + std::to_string(units.size() - kShownMax) + " more";
  }
  for (const Choice::Torn& torn : choice.torn) {
    text += ", torn at " + std::to_string(units[torn.unit].first * unit_size(kind_)) + " words " +
            std::to_string(torn.words);
  }
  return text;
}

}  // namespace crash
