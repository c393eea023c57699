// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/page_set.h"

#include <algorithm>
#include <utility>

namespace tiering {

void PageSet::reserve(pcow::GibIndex gib) {
  auto& bits = gibs_[gib.value];
  if (bits) return;
  bits = spare_ ? std::move(spare_) : std::make_unique<Bits>();
}

void PageSet::reserve(pcow::PageIndex first, uint64_t count) {
  if (count == 0) return;
  const pcow::GibIndex last = pcow::gib_of(pcow::chunk_of(first + (count - 1)));
  for (pcow::GibIndex gib = pcow::gib_of(pcow::chunk_of(first)); gib <= last; ++gib) reserve(gib);
}

namespace {

// The part of a run of pages that lies in one word of a GiB's bits.
struct Part {
  size_t word;
  uint64_t mask;
  uint64_t count;  // pages
};

Part part_at(uint64_t page, uint64_t end) {
  const uint64_t index = page % pcow::kPagesPerSegment;
  const uint64_t bit = index % 64;
  const uint64_t count = std::min(end - page, 64 - bit);
  const uint64_t bits = count == 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1;
  return {static_cast<size_t>(index / 64), bits << bit, count};
}

}  // namespace

void PageSet::insert(pcow::PageIndex first, uint64_t count) {
  const uint64_t end = first.value + count;
  auto gib = gibs_.end();
  for (uint64_t page = first.value; page < end;) {
    const uint64_t here = page / pcow::kPagesPerSegment;
    if (gib == gibs_.end() || gib->first != here) gib = gibs_.find(here);
    const Part part = part_at(page, end);
    uint64_t& word = (*gib->second)[part.word];
    count_ += static_cast<uint64_t>(std::popcount(part.mask & ~word));
    word |= part.mask;
    page += part.count;
  }
}

void PageSet::erase(pcow::PageIndex first, uint64_t count) {
  const uint64_t end = first.value + count;
  for (uint64_t page = first.value; page < end && count_ > 0;) {
    const auto gib = gibs_.find(page / pcow::kPagesPerSegment);
    if (gib == gibs_.end() || !gib->second) {
      page = (page / pcow::kPagesPerSegment + 1) * pcow::kPagesPerSegment;
      continue;
    }
    const Part part = part_at(page, end);
    uint64_t& word = (*gib->second)[part.word];
    count_ -= static_cast<uint64_t>(std::popcount(part.mask & word));
    word &= ~part.mask;
    page += part.count;
  }
}

void PageSet::trim(pcow::GibIndex gib) {
  const auto it = gibs_.find(gib.value);
  if (it == gibs_.end()) return;
  if (!it->second) {
    gibs_.erase(it);
    return;
  }
  if (std::ranges::any_of(*it->second, [](uint64_t word) { return word != 0; })) return;
  spare_ = std::move(it->second);
  gibs_.erase(it);
}

void PageSet::clear() {
  gibs_.clear();
  count_ = 0;
}

bool PageSet::contains(pcow::PageIndex page) const {
  const auto it = gibs_.find(page.value / pcow::kPagesPerSegment);
  if (it == gibs_.end() || !it->second) return false;
  const uint64_t index = page.value % pcow::kPagesPerSegment;
  return ((*it->second)[index / 64] >> (index % 64) & 1) != 0;
}

std::vector<pcow::PageIndex> PageSet::lowest(size_t max) const {
  std::vector<pcow::PageIndex> pages;
  pages.reserve(std::min<uint64_t>(max, count_));
  for (const auto& [gib, bits] : gibs_) {
    if (!bits) continue;
    for (size_t word = 0; word < kWords; ++word) {
      for (uint64_t rest = (*bits)[word]; rest != 0; rest &= rest - 1) {
        if (pages.size() == max) return pages;
        const auto bit = static_cast<uint64_t>(std::countr_zero(rest));
        pages.emplace_back(gib * pcow::kPagesPerSegment + word * 64 + bit);
      }
    }
  }
  return pages;
}

}  // namespace tiering
