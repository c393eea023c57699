// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/oracle.h"

#include <pcow/units.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>

#include "tests/crash/sparse_bytes.h"

namespace crash {
namespace {

constexpr uint64_t kWords = pcow::kPageSize / sizeof(uint64_t);
constexpr unsigned kWordBits = 9;
constexpr unsigned kVersionShift = 40;

// Versions from here on stand for the versions of the lines of a page.
constexpr Version kFirstMixture = uint64_t{1} << 32;
using Lines = std::array<Version, pcow::kLinesPerPage>;

std::vector<Lines>& mixtures() {
  static std::vector<Lines> all;
  return all;
}

Version line_version(Version version, uint64_t line) {
  return version < kFirstMixture ? version : mixtures().at(version - kFirstMixture)[line];
}

Version version_of(const Lines& lines) {
  if (std::ranges::all_of(lines, [&](Version v) { return v == lines.front(); })) {
    return lines.front();
  }
  auto& all = mixtures();
  const auto known = std::ranges::find(all, lines);
  const auto index = static_cast<Version>(known - all.begin());
  if (known == all.end()) all.push_back(lines);
  return kFirstMixture + index;
}

std::string describe(const std::set<Version>& versions) {
  std::string text;
  for (const Version version : versions) {
    text += text.empty() ? "" : " or ";
    text += version == 0 ? "zeros" : "version " + std::to_string(version);
  }
  return text;
}

std::optional<std::string> wrong_page(uint64_t page, std::span<const std::byte> bytes,
                                      const std::set<Version>& allowed) {
  for (uint64_t word = 0; word < kWords; ++word) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + word * sizeof(value), sizeof(value));
    const bool ok = std::ranges::any_of(
        allowed, [&](Version version) { return value == content_word(page, version, word); });
    if (ok) continue;
    return "page " + std::to_string(page) + " holds " + content_text(value) + " at its word " +
           std::to_string(word) + " instead of " + describe(allowed);
  }
  return std::nullopt;
}

std::optional<std::string> wrong_pages(const Found::Bytes& found, const Pages& expected) {
  static const std::set<Version> kZero = {0};
  for (const auto& [page, bytes] : found) {
    const auto it = expected.find(page);
    if (auto wrong = wrong_page(page, bytes, it == expected.end() ? kZero : it->second)) {
      return wrong;
    }
  }
  for (const auto& [page, allowed] : expected) {
    if (found.contains(page) || allowed.contains(0)) continue;
    return "page " + std::to_string(page) + " is a hole instead of " + describe(allowed);
  }
  return std::nullopt;
}

std::optional<std::string> wrong_snapshots(const std::map<std::string, Found::Snapshot>& found,
                                           const std::map<std::string, Kept>& expected) {
  for (const auto& [name, snapshot] : found) {
    const auto it = expected.find(name);
    if (it == expected.end()) return "it has a snapshot '" + name + "'";
    if (snapshot.size != it->second.size) return "snapshot '" + name + "' has another size";
    if (!snapshot.pages) continue;
    if (auto wrong = wrong_pages(*snapshot.pages, it->second.pages)) {
      return "in snapshot '" + name + "' " + *wrong;
    }
  }
  for (const auto& [name, snapshot] : expected) {
    if (!found.contains(name)) return "it has no snapshot '" + name + "'";
  }
  return std::nullopt;
}

std::optional<std::string> contradiction(const Found& found, const Model& model) {
  if (found.size != model.size) {
    return "it has " + std::to_string(found.size) + " bytes instead of " +
           std::to_string(model.size);
  }
  if (found.epoch != model.epoch) {
    return "it is at epoch " + std::to_string(found.epoch) + " instead of " +
           std::to_string(model.epoch);
  }
  if (model.clean && found.clean != *model.clean) {
    return std::string("it says that it was ") + (found.clean ? "" : "not ") + "closed cleanly";
  }
  if (auto wrong = wrong_snapshots(found.snapshots, model.snapshots)) return wrong;
  return wrong_pages(found.pages, model.pages);
}

}  // namespace

Version mix_lines(Version base, Version other, uint64_t mask) {
  Lines lines;
  for (uint64_t line = 0; line < lines.size(); ++line) {
    lines[line] = line_version((mask >> line & 1) != 0 ? other : base, line);
  }
  return version_of(lines);
}

uint64_t content_word(uint64_t page, Version version, uint64_t word) {
  version = line_version(version, word * sizeof(word) / pcow::kLineSize);
  return version == 0 ? 0 : version << kVersionShift | page << kWordBits | word;
}

std::vector<std::byte> page_content(uint64_t page, Version version) {
  std::vector<std::byte> bytes(pcow::kPageSize);
  for (uint64_t word = 0; word < kWords; ++word) {
    const uint64_t value = content_word(page, version, word);
    std::memcpy(bytes.data() + word * sizeof(value), &value, sizeof(value));
  }
  return bytes;
}

std::string content_text(uint64_t word) {
  if (word == 0) return "zero";
  return "word " + std::to_string(word & ((1u << kWordBits) - 1)) + " of page " +
         std::to_string((word & ((uint64_t{1} << kVersionShift) - 1)) >> kWordBits) + ", version " +
         std::to_string(word >> kVersionShift);
}

uint64_t Found::digest() const {
  static const std::vector<std::byte> kZero(pcow::kPageSize);
  uint64_t sum = mix(size, epoch);
  for (const auto& [name, snapshot] : snapshots) {
    sum = mix(sum, std::hash<std::string>()(name));
    sum = mix(sum, snapshot.size);
  }
  for (const auto& [page, bytes] : pages) {
    if (bytes == kZero) continue;
    sum = mix(sum, page);
    for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
      uint64_t value = 0;
      std::memcpy(&value, bytes.data() + at, sizeof(value));
      sum = mix(sum, value);
    }
  }
  return sum;
}

std::optional<std::string> contradiction(const Found& found, const Expectation& expected) {
  std::optional<std::string> wrong;
  for (const Model& model : expected.any_of) {
    const auto this_wrong = contradiction(found, model);
    if (!this_wrong) return std::nullopt;
    // Of several models the one of the right epoch says most.
    if (!wrong || found.epoch == model.epoch) wrong = this_wrong;
  }
  return wrong;
}

Model Oracle::model() const {
  Model model{size_, epoch_, {}, snapshots_, {}};
  for (const auto& [page, state] : pages_) {
    std::set<Version>& allowed = model.pages[page];
    allowed = state.committed;
    allowed.insert(state.later.begin(), state.later.end());
  }
  return model;
}

// What was written is what will be found.
void Oracle::settle() {
  for (auto& [page, state] : pages_) {
    if (state.later.empty()) continue;
    state.committed = {state.later.back()};
    state.later.clear();
  }
  written_since_commit_ = false;
}

void Oracle::set_base(const std::map<uint64_t, Version>& pages) {
  for (const auto& [page, version] : pages) pages_[page].committed = {version};
}

Expectation Oracle::create() const { return {{model()}, true}; }

Expectation Oracle::write(const std::map<uint64_t, Version>& pages) {
  for (const auto& [page, version] : pages) {
    const bool owned = pages_.contains(page);
    if (version == 0 && !owned) continue;  // stays a hole
    if (!owned) pages_[page].committed = {0};
    pages_[page].later.push_back(version);
    written_since_commit_ = true;
  }
  return after();
}

void Oracle::drop_epoch() {
  logged_.clear();
  epoch_under_way_ = false;
}

void Oracle::log(const std::map<uint64_t, Version>& pages, bool changed) {
  epoch_under_way_ |= changed;
  for (const auto& [page, version] : pages) {
    if (version == 0 && !pages_.contains(page) && !logged_.contains(page)) continue;
    if (content(page) == version && (pages_.contains(page) || logged_.contains(page))) continue;
    logged_[page] = version;
  }
}

std::optional<Version> Oracle::content(uint64_t page) const {
  if (const auto it = logged_.find(page); it != logged_.end()) return it->second;
  const auto it = pages_.find(page);
  if (it == pages_.end()) return 0;
  if (!it->second.later.empty()) return it->second.later.back();
  if (it->second.committed.size() != 1) return std::nullopt;
  return *it->second.committed.begin();
}

Expectation Oracle::commit() {
  Expectation in_flight = after();
  if (!written_since_commit_ && !epoch_under_way_) return in_flight;
  settle();
  for (const auto& [page, version] : logged_) pages_[page].committed = {version};
  drop_epoch();
  ++epoch_;
  in_flight.any_of.push_back(model());
  return in_flight;
}

// What the image still owns of them, to hide something of a snapshot or the base, is zero: as what
// it does not own.
Expectation Oracle::discard(uint64_t first, uint64_t count) {
  const auto begin = pages_.lower_bound(first);
  const auto end = pages_.lower_bound(first + count);
  for (auto page = begin; page != end; ++page) page->second.later.push_back(0);
  Expectation in_flight = after();
  pages_.erase(begin, end);
  return in_flight;
}

Expectation Oracle::resize(uint64_t size) {
  Expectation in_flight = after();
  // A large shrink goes by steps of 16 GiB, which workloads stay below.
  size_ = size;
  pages_.erase(pages_.lower_bound(size / pcow::kPageSize), pages_.end());
  in_flight.any_of.push_back(model());
  return in_flight;
}

Expectation Oracle::create_snapshot(const std::string& name) {
  Expectation in_flight = commit();
  Kept& kept = snapshots_[name];
  kept.size = size_;
  kept.pages = model().pages;
  in_flight.any_of.push_back(model());
  return in_flight;
}

Expectation Oracle::delete_snapshot(const std::string& name) {
  Expectation in_flight = after();
  snapshots_.erase(name);
  in_flight.any_of.push_back(model());
  return in_flight;
}

Expectation Oracle::apply_snapshot(const std::string& name) {
  Expectation in_flight = after();
  const Kept& kept = snapshots_.at(name);
  size_ = kept.size;
  ++epoch_;
  written_since_commit_ = false;
  drop_epoch();
  pages_.clear();
  for (const auto& [page, versions] : kept.pages) pages_[page].committed = versions;
  in_flight.any_of.push_back(model());
  return in_flight;
}

Expectation Oracle::rebase() {
  written_since_commit_ = true;
  return commit();
}

Expectation Oracle::close() {
  Expectation in_flight = after();
  in_flight.any_of.front().clean = false;
  drop_epoch();
  settle();
  in_flight.any_of.push_back(model());
  return in_flight;
}

Expectation Oracle::reopen() {
  written_since_commit_ = false;  // the image does not remember
  drop_epoch();
  return after();
}

std::vector<uint64_t> Oracle::owned_pages() const {
  std::vector<uint64_t> pages;
  pages.reserve(pages_.size());
  for (const auto& [page, state] : pages_) pages.push_back(page);
  return pages;
}

std::vector<std::string> Oracle::snapshots() const {
  std::vector<std::string> names;
  names.reserve(snapshots_.size());
  for (const auto& [name, kept] : snapshots_) names.push_back(name);
  return names;
}

namespace {

// What a page holds: its version, or, if a crash tore its lines, those of its words.
std::set<Version> versions_in(const std::vector<std::byte>& bytes) {
  Lines lines{};
  bool whole = true;
  for (uint64_t word = 0; word < kWords; ++word) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + word * sizeof(value), sizeof(value));
    Version& line = lines[word * sizeof(value) / pcow::kLineSize];
    if (word * sizeof(value) % pcow::kLineSize == 0) line = value >> kVersionShift;
    whole &= line == value >> kVersionShift;
  }
  if (whole) return {version_of(lines)};
  std::set<Version> versions;
  for (size_t at = 0; at < bytes.size(); at += sizeof(uint64_t)) {
    uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof(value));
    versions.insert(value >> kVersionShift);
  }
  return versions;
}

}  // namespace

void Oracle::adopt(const Found& found) {
  size_ = found.size;
  epoch_ = found.epoch;
  written_since_commit_ = false;
  drop_epoch();
  pages_.clear();
  for (const auto& [page, bytes] : found.pages) pages_[page].committed = versions_in(bytes);
  snapshots_.clear();
  for (const auto& [name, snapshot] : found.snapshots) {
    Kept& kept = snapshots_[name];
    kept.size = snapshot.size;
    for (const auto& [page, bytes] : snapshot.pages.value()) kept.pages[page] = versions_in(bytes);
  }
}

void Oracle::adopt(const Found& found, const Expectation& expected) {
  const auto model = std::ranges::find_if(
      expected.any_of, [&](const Model& candidate) { return !contradiction(found, candidate); });
  if (model == expected.any_of.end())
    throw std::runtime_error("a killed process left a wrong image");
  size_ = model->size;
  epoch_ = model->epoch;
  snapshots_ = model->snapshots;
  written_since_commit_ = false;
  drop_epoch();
  pages_.clear();
  for (const auto& [page, versions] : model->pages) {
    if (found.pages.contains(page)) pages_[page].committed = versions;
  }
}

}  // namespace crash
