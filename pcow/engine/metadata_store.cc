// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/metadata_store.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "pcow/engine/page_runs.h"

namespace pcow {
namespace {

constexpr size_t kCachedPagesMax = 2048;  // 8 MiB between transactions

std::string_view type_name(format::BlockType type) {
  switch (type) {
    case format::BlockType::kRoot:
      return "root block";
    case format::BlockType::kSlotMap:
      return "slot map";
    case format::BlockType::kSegmentTable:
      return "segment table";
    case format::BlockType::kLayerDirectory:
      return "layer directory";
    case format::BlockType::kLayerTable:
      return "layer table";
    case format::BlockType::kChunkTable:
      return "chunk table";
    case format::BlockType::kStripeTable:
      return "stripe table";
  }
  return "block";
}

uint64_t changed_lines(const format::Block& before, const format::Block& now) {
  uint64_t mask = 0;
  for (uint64_t line = 0; line < kLinesPerPage; ++line) {
    const size_t at = line * kLineSize;
    if (std::memcmp(before.bytes.data() + at, now.bytes.data() + at, kLineSize) != 0) {
      mask |= uint64_t{1} << line;
    }
  }
  return mask;
}

}  // namespace

Result<void> store_lines(Media& media, StoreCause cause, uint64_t target, uint64_t mask,
                         const format::Block& content) {
  while (mask != 0) {
    const auto first = static_cast<uint64_t>(std::countr_zero(mask));
    const auto count = static_cast<uint64_t>(std::countr_one(mask >> first));
    PCOW_TRY(media.write(cause, target + first * kLineSize,
                         std::span(content.bytes).subspan(first * kLineSize, count * kLineSize)));
    if (first + count >= kLinesPerPage) break;
    mask &= ~uint64_t{0} << (first + count);
  }
  return {};
}

Result<void> MetadataStore::peek(uint64_t offset, std::span<std::byte> out) const {
  PCOW_TRY(media_->read(offset, out));
  if (pages_.empty() && overlay_.empty()) return {};
  for (uint64_t at = 0; at < out.size(); at += kPageSize) {
    const auto page = out.subspan(at, kPageSize);
    if (const auto it = pages_.find(offset + at); it != pages_.end()) {
      std::memcpy(page.data(), it->second->content.bytes.data(), kPageSize);
    } else {
      PCOW_TRY(overlay_.lay_over(*media_, offset + at, page));
    }
  }
  return {};
}

Result<void> MetadataStore::read_replayed(uint64_t offset, std::span<std::byte> out) const {
  PCOW_TRY(media_->read(offset, out));
  for (uint64_t at = offset; !overlay_.zeros.empty() && at < offset + out.size();) {
    const uint64_t next = std::min(at / kPageSize * kPageSize + kPageSize, offset + out.size());
    if (overlay_.zeroes(at)) std::ranges::fill(out.subspan(at - offset, next - at), std::byte{0});
    at = next;
  }
  for (auto it = overlay_.pages.lower_bound(offset / kPageSize * kPageSize);
       it != overlay_.pages.end() && it->first < offset + out.size(); ++it) {
    const auto lay_over = [&](format::Block& page) -> Result<void> {
      PCOW_TRY(overlay_.lay_over(*media_, it->first, page.bytes));
      return {};
    };
    PCOW_TRY(change_page(it->first, offset, out, lay_over));
  }
  return {};
}

Result<MetadataStore::Page*> MetadataStore::load(uint64_t offset, Kind kind,
                                                 format::BlockType type) {
  if (const auto it = pages_.find(offset); it != pages_.end()) return it->second.get();
  evict();
  auto page = std::make_unique<Page>();
  page->kind = kind;
  PCOW_TRY(peek(offset, page->content.bytes));
  if (kind == Kind::kBlock) {
    if (const std::string defect = format::block_defect(page->content, type, offset, uuid_);
        !defect.empty()) {
      report_damage();
      return make_error(Code::kCorrupt, "'" + media_->file().path() +
                                            "' is damaged: " + std::string(type_name(type)) +
                                            " at offset " + std::to_string(offset) + ": " + defect +
                                            "; see 'pcow-img check', restore the file from a copy");
    }
  }
  return pages_.emplace(offset, std::move(page)).first->second.get();
}

Result<const format::Block*> MetadataStore::block(uint64_t offset, format::BlockType type) {
  PCOW_TRY_ASSIGN(const Page* page, load(offset, Kind::kBlock, type));
  return &page->content;
}

Result<const format::Block*> MetadataStore::raw_page(uint64_t offset) {
  PCOW_TRY_ASSIGN(const Page* page, load(offset, Kind::kRaw, {}));
  return &page->content;
}

// Called before the page is changed.
void MetadataStore::note_for_undo(uint64_t offset) {
  if (!in_step_ || !noted_.insert(offset).second) return;
  const auto it = pages_.find(offset);
  Undo undo{offset, nullptr, false};
  if (it != pages_.end()) {
    const Page& page = *it->second;
    undo.changed = page.before != nullptr;
    undo.page = std::make_unique<Page>();
    undo.page->content = page.content;
    undo.page->kind = page.kind;
    undo.page->created = page.created;
    if (page.before) undo.page->before = std::make_unique<format::Block>(*page.before);
  }
  undo_.push_back(std::move(undo));
}

void MetadataStore::mark_changed(uint64_t offset, Page& page) {
  note_for_undo(offset);
  if (page.before) return;
  auto before = std::make_unique<format::Block>(page.content);
  changed_.push_back(offset);
  page.before = std::move(before);
}

Result<format::Block*> MetadataStore::modify_block(uint64_t offset, format::BlockType type) {
  PCOW_TRY_ASSIGN(Page * page, load(offset, Kind::kBlock, type));
  mark_changed(offset, *page);
  return &page->content;
}

Result<format::Block*> MetadataStore::modify_raw_page(uint64_t offset) {
  PCOW_TRY_ASSIGN(Page * page, load(offset, Kind::kRaw, {}));
  mark_changed(offset, *page);
  return &page->content;
}

format::Block* MetadataStore::create(uint64_t offset, Kind kind) {
  note_for_undo(offset);
  auto page = std::make_unique<Page>();
  page->kind = kind;
  page->created = true;
  page->before = std::make_unique<format::Block>();
  changed_.push_back(offset);  // abort() copes with a page that is not there
  return &pages_.insert_or_assign(offset, std::move(page)).first->second->content;
}

format::Block* MetadataStore::create_block(uint64_t offset, format::BlockType type,
                                           uint64_t owner) {
  format::Block* block = create(offset, Kind::kBlock);
  format::init_header(*block, type, offset, owner, uuid_);
  return block;
}

format::Block* MetadataStore::create_raw_page(uint64_t offset) {
  return create(offset, Kind::kRaw);
}

Result<void> MetadataStore::erase_page(uint64_t offset) {
  PCOW_TRY_ASSIGN(Page * page, load(offset, Kind::kRaw, {}));
  mark_changed(offset, *page);
  page->kind = Kind::kRaw;  // not to be sealed
  page->content = {};
  return {};
}

void MetadataStore::forget(uint64_t offset, uint64_t length) {
  if (length / kPageSize <= pages_.size()) {
    for (uint64_t at = offset; at < offset + length; at += kPageSize) pages_.erase(at);
    return;
  }
  std::erase_if(pages_, [&](const auto& page) {
    return page.first >= offset && page.first - offset < length;
  });
}

std::vector<RedoLog::Change> MetadataStore::seal_changes() {
  std::vector<RedoLog::Change> changes;
  changes.reserve(changed_.size());
  for (const uint64_t offset : changed_) {
    Page& page = *pages_.at(offset);
    if (page.kind == Kind::kBlock) format::seal(page.content);
    const uint64_t mask = changed_lines(*page.before, page.content);
    if (mask != 0) changes.push_back({offset, mask, &page.content});
  }
  return changes;
}

// A block gets its checksum; of other pages what stays zero is not stored.
bool MetadataStore::needs_space(const Page& page) {
  return page.kind == Kind::kBlock || changed_lines(*page.before, page.content) != 0;
}

Result<void> MetadataStore::reserve_places() {
  for (const uint64_t offset : changed_) {
    // A page that was read before has its space, unless it was an all-zero hole.
    if (needs_space(*pages_.at(offset))) PCOW_TRY(media_->reserve(offset, kPageSize));
  }
  return {};
}

Result<void> MetadataStore::checkpoint(std::span<const RedoLog::Change> changes) {
  Result<void> result;
  for (const RedoLog::Change& change : changes) {
    result =
        store_lines(*media_, &StoredBytes::metadata, change.target, change.mask, *change.content);
    if (!result) {
      places_defined_ = false;
      return result;
    }
  }
  for (const uint64_t offset : changed_) {
    Page& page = *pages_.at(offset);
    page.before.reset();
    page.created = false;
  }
  changed_.clear();
  return result;
}

void MetadataStore::abort() {
  for (const uint64_t offset : changed_) {
    const auto it = pages_.find(offset);
    if (it == pages_.end()) continue;
    if (it->second->created) {
      pages_.erase(it);
    } else {
      it->second->content = *it->second->before;
      it->second->before.reset();
    }
  }
  changed_.clear();
}

void MetadataStore::begin_step() {
  in_step_ = true;
  changed_before_step_ = changed_.size();
}

void MetadataStore::keep_step() {
  in_step_ = false;
  undo_.clear();
  noted_.clear();
}

void MetadataStore::undo_step() {
  for (Undo& undo : undo_) {
    if (undo.page) {
      pages_[undo.offset] = std::move(undo.page);
    } else {
      pages_.erase(undo.offset);
    }
  }
  changed_.resize(changed_before_step_);
  keep_step();
}

Result<void> MetadataStore::reserve_step_places() {
  for (const Undo& undo : undo_) {
    const bool has_space = undo.changed && undo.page && needs_space(*undo.page);
    if (has_space || !needs_space(*pages_.at(undo.offset))) continue;
    PCOW_TRY(media_->reserve(undo.offset, kPageSize));
  }
  return {};
}

uint64_t MetadataStore::changes_bound() const {
  uint64_t bytes = 0;
  for (const uint64_t offset : changed_) {
    const Page& page = *pages_.at(offset);
    const uint64_t mask = changed_lines(*page.before, page.content) | 1;  // its checksum
    bytes += lines_record_size(mask);
  }
  return bytes;
}

void MetadataStore::evict() {
  if (changed_.empty() && places_defined_ && pages_.size() > kCachedPagesMax) pages_.clear();
}

}  // namespace pcow
