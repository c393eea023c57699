// SPDX-License-Identifier: BSD-3-Clause
#include "tests/crash/sparse_bytes.h"

#include <algorithm>
#include <cstring>

namespace crash {

using pcow::kPageSize;

uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2))) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 29)) * 0x94d049bb133111ebu;
  return x ^ (x >> 32);
}

SparseBytes::Entries::const_iterator SparseBytes::lower_bound(uint64_t page) const {
  return std::lower_bound(pages_.begin(), pages_.end(), page,
                          [](const Entry& entry, uint64_t index) { return entry.index < index; });
}

const SparseBytes::Page* SparseBytes::find(uint64_t page) const {
  const auto it = lower_bound(page);
  return it != pages_.end() && it->index == page ? it->page.get() : nullptr;
}

SparseBytes::Page& SparseBytes::modify(uint64_t page) {
  auto it = pages_.begin() + (lower_bound(page) - pages_.cbegin());
  if (it == pages_.end() || it->index != page) {
    it = pages_.insert(it, {page, std::make_shared<Page>()});
  } else if (it->page.use_count() > 1) {
    it->page = std::make_shared<Page>(*it->page);
  }
  it->page->hash = 0;
  return *it->page;
}

void SparseBytes::read(uint64_t offset, std::span<std::byte> out) const {
  auto it = lower_bound(offset / kPageSize);
  while (!out.empty()) {
    // Up to the next present page: zeros, all at once.
    const uint64_t data = it == pages_.end() ? offset + out.size() : it->index * kPageSize;
    if (data > offset) {
      const size_t zeros = std::min<size_t>(out.size(), data - offset);
      std::memset(out.data(), 0, zeros);
      offset += zeros;
      out = out.subspan(zeros);
      continue;
    }
    const size_t place = offset - data;
    const size_t step = std::min<size_t>(out.size(), kPageSize - place);
    std::memcpy(out.data(), it->page->bytes.data() + place, step);
    offset += step;
    out = out.subspan(step);
    ++it;
  }
}

void SparseBytes::write(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t place = offset % kPageSize;
    const size_t step = std::min<size_t>(bytes.size(), kPageSize - place);
    std::memcpy(modify(offset / kPageSize).bytes.data() + place, bytes.data(), step);
    offset += step;
    bytes = bytes.subspan(step);
  }
}

void SparseBytes::reserve(uint64_t offset, uint64_t length) {
  if (length == 0) return;
  for (uint64_t page = offset / kPageSize; page <= (offset + length - 1) / kPageSize; ++page) {
    if (find(page) == nullptr) modify(page);
  }
}

void SparseBytes::punch(uint64_t offset, uint64_t length) {
  const uint64_t end = offset + length;
  const uint64_t first = (offset + kPageSize - 1) / kPageSize;
  const uint64_t last = end / kPageSize;
  const auto zero_part = [this](uint64_t from, uint64_t to) {
    if (from >= to || find(from / kPageSize) == nullptr) return;
    std::memset(modify(from / kPageSize).bytes.data() + from % kPageSize, 0, to - from);
  };
  zero_part(offset, std::min(end, first * kPageSize));
  if (last >= first) zero_part(std::max(offset, last * kPageSize), end);
  if (last > first) pages_.erase(lower_bound(first), lower_bound(last));
}

void SparseBytes::drop_zero_pages(uint64_t offset, uint64_t length) {
  static constexpr std::array<std::byte, kPageSize> kZero{};
  const auto from = pages_.begin() + (lower_bound(offset / kPageSize) - pages_.cbegin());
  const auto to = pages_.begin() + (lower_bound((offset + length) / kPageSize) - pages_.cbegin());
  pages_.erase(
      std::remove_if(from, to, [](const Entry& entry) { return entry.page->bytes == kZero; }), to);
}

void SparseBytes::drop_beyond_size() {
  pages_.erase(lower_bound((kSecondFile + second_size) / kPageSize), pages_.end());
  pages_.erase(lower_bound(size / kPageSize), lower_bound(kSecondFile / kPageSize));
}

uint64_t SparseBytes::next_present(uint64_t page, uint64_t end) const {
  const auto it = lower_bound(page);
  return it == pages_.end() ? end : std::min(end, it->index);
}

uint64_t SparseBytes::next_absent(uint64_t page, uint64_t end) const {
  for (auto it = lower_bound(page); it != pages_.end() && it->index == page && page < end; ++it) {
    ++page;
  }
  return page;
}

uint64_t SparseBytes::digest() const {
  uint64_t sum = mix(mix(size, pages_.size()), second_size);
  for (const Entry& entry : pages_) {
    const Page& page = *entry.page;
    if (page.hash == 0) {
      // Four lanes, so that the multiplications overlap.
      std::array<uint64_t, 4> lanes = {1, 2, 3, 4};
      for (size_t at = 0; at < kPageSize; at += sizeof(lanes)) {
        std::array<uint64_t, 4> words;
        std::memcpy(words.data(), page.bytes.data() + at, sizeof(words));
        for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = mix(lanes[i], words[i]);
      }
      page.hash = mix(mix(lanes[0], lanes[1]), mix(lanes[2], lanes[3])) | 1;
    }
    sum += mix(entry.index, page.hash);
  }
  return sum;
}

}  // namespace crash
