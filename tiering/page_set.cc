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

void PageSet::insert(pcow::PageIndex first, uint64_t count) {
  for (uint64_t page = first.value; page < first.value + count; ++page) {
    Bits& bits = *gibs_.find(page / pcow::kPagesPerSegment)->second;
    const uint64_t index = page % pcow::kPagesPerSegment;
    const uint64_t mask = uint64_t{1} << (index % 64);
    if ((bits[index / 64] & mask) == 0) {
      bits[index / 64] |= mask;
      ++count_;
    }
  }
}

void PageSet::erase(pcow::PageIndex page) {
  const auto it = gibs_.find(page.value / pcow::kPagesPerSegment);
  if (it == gibs_.end() || !it->second) return;
  const uint64_t index = page.value % pcow::kPagesPerSegment;
  const uint64_t mask = uint64_t{1} << (index % 64);
  if (((*it->second)[index / 64] & mask) == 0) return;
  (*it->second)[index / 64] &= ~mask;
  --count_;
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
