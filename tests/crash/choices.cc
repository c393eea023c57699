// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/choices.h"

#include <algorithm>
#include <cstring>
#include <set>

namespace crash {
namespace {

constexpr size_t kWordsPerLine = 8;

class Chooser {
 public:
  Chooser(WriteBack& write_back, const ChoiceLimits& limits, Random& random)
      : write_back_(&write_back),
        units_(&write_back.pending_units()),
        pending_changes_(write_back.pending_file_changes()),
        limits_(limits),
        random_(&random) {
    std::set<size_t> numbers;
    for (size_t file = 0; file < pending_changes_.size(); ++file) {
      const std::vector<size_t>& events = write_back.file_change_events(file);
      numbers.insert(events.begin(), events.end());
    }
    for (const auto& [unit, history] : *units_) {
      for (const UnitVersion& version : history) numbers.insert(version.event);
    }
    events_.assign(numbers.begin(), numbers.end());
  }

  Choices run() {
    if (combinations() <= limits_.exhaustive) {
      enumerate();
      return {std::move(list_), true};
    }
    for (Choice choice : {write_back_->nothing_landed(), write_back_->everything_landed()}) {
      choice.file_changes = {};
      list_.push_back(choice);
      choice.file_changes = pending_changes_;
      list_.push_back(std::move(choice));
    }
    by_file();
    in_order();
    by_event();
    by_unit();
    at_random();
    return {std::move(list_), false};
  }

 private:
  uint64_t combinations() const {
    uint64_t product = (pending_changes_[0] + 1) * (pending_changes_[1] + 1);
    for (const auto& [unit, history] : *units_) {
      product *= history.size() + 1;
      if (product > limits_.exhaustive) return product;
    }
    return product;
  }

  void enumerate() {
    Choice choice = write_back_->nothing_landed();
    const Choice all = write_back_->everything_landed();
    while (true) {
      list_.push_back(choice);
      // Counts up in a number system whose digits are the choices.
      size_t digit = 0;
      while (digit < choice.landed.size() && choice.landed[digit] == all.landed[digit]) {
        choice.landed[digit++] = 0;
      }
      if (digit < choice.landed.size()) {
        ++choice.landed[digit];
      } else if (!next_changes(choice.file_changes)) {
        break;
      }
    }
    for (size_t unit = 0; unit < choice.landed.size(); ++unit) {
      for (const Choice& rest : {write_back_->nothing_landed(), all})
        tear_every_version(rest, unit);
    }
  }

  // The next cut of the lists of changes; false after the last.
  bool next_changes(PerFile& changes) const {
    for (size_t file = 0; file < changes.size(); ++file) {
      if (changes[file]++ < pending_changes_[file]) return true;
      changes[file] = 0;
    }
    return false;
  }

  void tear_every_version(Choice choice, size_t unit) {
    for (size_t version = 0; version < (*units_)[unit].second.size(); ++version) {
      choice.landed[unit] = version;
      for (const uint8_t words : tears(choice, unit)) {
        choice.torn.assign(1, {unit, words});
        list_.push_back(choice);
      }
    }
  }

  // Sets of words of the version after the landed one, neither none nor all of those that differ.
  std::vector<uint8_t> tears(const Choice& choice, size_t unit) {
    std::vector<uint8_t> result;
    if (write_back_->kind() == MediumKind::kPage) return result;
    const History& history = (*units_)[unit].second;
    const size_t version = choice.landed[unit];
    if (version >= history.size() || history[version].by_sync) return result;
    const std::vector<std::byte> before = write_back_->landed(unit, version);
    unsigned differing = 0;
    for (size_t word = 0; word < kWordsPerLine; ++word) {
      const size_t at = word * sizeof(uint64_t);
      const auto* after = history[version].content.data() + at;
      if (std::memcmp(before.data() + at, after, sizeof(uint64_t)) != 0) differing |= 1u << word;
    }
    std::set<uint8_t> masks;
    constexpr size_t kTearsPerLine = 12;
    for (size_t n = 0; n < kTearsPerLine; ++n) {
      const auto words = static_cast<uint8_t>((*random_)() & differing);
      if (words != 0 && words != differing) masks.insert(words);
    }
    for (size_t word = 1; word < kWordsPerLine; ++word) {  // a copy cut short
      const auto words = static_cast<uint8_t>(differing & ((1u << word) - 1));
      if (words != 0 && words != differing) masks.insert(words);
    }
    result.assign(masks.begin(), masks.end());
    return result;
  }

  // What landed if exactly these events did: of each unit the newest version one of them made.
  template <typename Predicate>
  Choice landed_if(const Predicate& has_landed) {
    Choice choice = write_back_->nothing_landed();
    for (size_t i = 0; i < units_->size(); ++i) {
      const History& history = (*units_)[i].second;
      for (size_t version = 0; version < history.size(); ++version) {
        if (has_landed(history[version].event)) choice.landed[i] = version + 1;
      }
    }
    // In order: up to the first that has not landed.
    for (size_t file = 0; file < pending_changes_.size(); ++file) {
      for (const size_t event : write_back_->file_change_events(file)) {
        if (!has_landed(event)) break;
        ++choice.file_changes[file];
      }
    }
    return choice;
  }

  bool changes_pending() const { return pending_changes_ != PerFile{}; }

  // Some of so many changes.
  PerFile pick_changes(const PerFile& bounds) {
    PerFile changes{};
    for (size_t file = 0; file < changes.size(); ++file) {
      if (file == 0 || bounds[file] > 0) changes[file] = pick(bounds[file] + 1);
    }
    return changes;
  }

  size_t pick(size_t bound) { return bound == 0 ? 0 : (*random_)() % bound; }

  // All of one file and nothing of the other; with a random part of it, too.
  void by_file() {
    if (units_->empty() || write_back_->file_of(units_->size() - 1) == 0) {
      if (pending_changes_[1] == 0) return;
    }
    for (size_t file = 0; file < pending_changes_.size(); ++file) {
      for (const bool rest : {false, true}) {
        Choice choice = write_back_->everything_landed();
        choice.file_changes[file] = rest ? pick(pending_changes_[file] + 1) : 0;
        for (size_t unit = 0; unit < choice.landed.size(); ++unit) {
          if (write_back_->file_of(unit) != file) continue;
          choice.landed[unit] = rest ? pick(choice.landed[unit] + 1) : 0;
        }
        list_.push_back(std::move(choice));
      }
    }
  }

  // Everything up to some event; the file's own changes with it, before it, or after it.
  void in_order() {
    const size_t count = std::min(events_.size(), limits_.samples / 6 + 1);
    for (size_t n = 0; n < count; ++n) {
      const size_t last = count == events_.size() ? events_[n] : events_[pick(events_.size())];
      Choice choice = landed_if([last](size_t event) { return event <= last; });
      list_.push_back(choice);
      if (!changes_pending()) continue;
      choice.file_changes = pick(2) == 0 ? PerFile{} : pending_changes_;
      list_.push_back(std::move(choice));
    }
  }

  void by_event() {
    const size_t count = limits_.samples / 4 + 1;
    for (size_t n = 0; n < count && !events_.empty(); ++n) {
      const size_t one = events_[pick(events_.size())];
      const uint64_t set = (*random_)();
      switch (n % 3) {
        case 0:
          list_.push_back(landed_if([one](size_t event) { return event != one; }));
          break;
        case 1:
          list_.push_back(landed_if([one](size_t event) { return event == one; }));
          break;
        default:
          list_.push_back(landed_if([set](size_t event) { return (mix(set, event) & 1) != 0; }));
          break;
      }
      if (pick(2) == 0) list_.back().file_changes = pick_changes(pending_changes_);
    }
  }

  // A single unit landed, or missing, or torn.
  void by_unit() {
    const size_t count = std::min(units_->size() * 3, limits_.samples / 3 + 1);
    for (size_t n = 0; n < count; ++n) {
      const size_t unit = count == units_->size() * 3 ? n / 3 : pick(units_->size());
      const size_t versions = (*units_)[unit].second.size();
      const bool alone = n % 3 == 1;
      Choice choice = alone ? write_back_->nothing_landed() : write_back_->everything_landed();
      choice.landed[unit] = alone ? 1 + pick(versions) : pick(versions);
      if (n % 3 == 2) add_tear(choice, unit);
      list_.push_back(std::move(choice));
    }
  }

  void add_tear(Choice& choice, size_t unit) {
    const std::vector<uint8_t> masks = tears(choice, unit);
    if (!masks.empty()) choice.torn.push_back({unit, masks[pick(masks.size())]});
  }

  void at_random() {
    while (list_.size() < limits_.samples) {
      Choice choice = write_back_->everything_landed();
      const size_t percent = 5 + pick(91);
      for (size_t unit = 0; unit < choice.landed.size(); ++unit) {
        if (pick(100) >= percent) choice.landed[unit] = pick(choice.landed[unit]);
      }
      if (pick(2) == 0) choice.file_changes = pick_changes(choice.file_changes);
      for (size_t n = pick(4); n > 0 && !choice.landed.empty(); --n) {
        const size_t unit = pick(choice.landed.size());
        const bool already = std::ranges::any_of(
            choice.torn, [unit](const Choice::Torn& torn) { return torn.unit == unit; });
        if (!already) add_tear(choice, unit);
      }
      list_.push_back(std::move(choice));
    }
  }

  WriteBack* write_back_;
  const std::vector<std::pair<uint64_t, History>>* units_;
  const PerFile pending_changes_;
  ChoiceLimits limits_;
  Random* random_;
  std::vector<size_t> events_;  // with something pending, ascending
  std::vector<Choice> list_;
};

}  // namespace

Choices choose(WriteBack& write_back, const ChoiceLimits& limits, Random& random) {
  return Chooser(write_back, limits, random).run();
}

}  // namespace crash
