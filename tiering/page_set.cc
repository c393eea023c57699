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

}  // namespace tiering
