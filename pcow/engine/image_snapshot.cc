// SPDX-License-Identifier: BSD-3-Clause
//
// Snapshots: freezing the active layer, going back (FORMAT.md, section 7).
//
//   create   active ──► frozen, named         a new active layer shows the same tables
//   apply    active ──► deleting              a new active layer shows those of the snapshot
//   delete   frozen ──► deleting              (image_deletion.cc)
//            deleting ──► gone
//
// Each arrow but the last is one transaction.
#include <algorithm>
#include <chrono>

#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BlockType;
using format::LayerRecord;

namespace {

uint64_t now_ns() {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

// The bytes of the UTF-8 character that the text begins with; 0 if that is none, or a control
// character.
size_t character_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return lead < ' ' || lead == 0x7f ? 0 : 1;
  const size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (length == 0 || length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Controls, what a shorter form says, surrogates, and what lies behind the last character.
  const unsigned second = byte(1);
  const bool allowed = lead == 0xc2 || lead == 0xe0 ? second >= 0xa0
                       : lead == 0xed               ? second < 0xa0
                       : lead == 0xf0               ? second >= 0x90
                       : lead == 0xf4               ? second < 0x90
                                                    : true;
  return allowed ? length : 0;
}

Result<void> check_name(std::string_view name) {
  bool ok = !name.empty() && name.size() <= format::kMaxNameLength;
  for (std::string_view rest = name; ok && !rest.empty();) {
    const size_t length = character_length(rest);
    ok = length > 0;
    rest.remove_prefix(length);
  }
  if (ok) return {};
  return make_error(Code::kInvalid, "a snapshot's name is UTF-8 of 1 to " +
                                        std::to_string(format::kMaxNameLength) +
                                        " bytes and has no control characters; choose another one");
}

void set_name(LayerRecord& record, std::string_view name) {
  record.name = {};
  std::copy(name.begin(), name.end(), record.name.begin());
  record.name_length = static_cast<uint32_t>(name.size());
}

}  // namespace

Result<std::vector<SnapshotInfo>> ImageImpl::snapshots() const {
  std::vector<SnapshotInfo> list;
  const auto visit = [&](uint64_t, const LayerRecord& record) -> Result<void> {
    if ((record.flags & format::kLayerFrozen) == 0 || is_deleting(record)) return {};
    SnapshotInfo snapshot;
    snapshot.id = LayerId(record.id);
    snapshot.name = layer_name(record);
    if (record.parent != 0) snapshot.parent = LayerId(record.parent);
    snapshot.created_ns = record.created_ns;
    snapshot.epoch = Epoch(record.epoch);
    snapshot.virtual_size = record.virtual_size;
    snapshot.allocated_bytes = record.allocated_pages * kPageSize;
    list.push_back(std::move(snapshot));
    return {};
  };
  PCOW_TRY(layers_.for_each(visit));
  std::sort(list.begin(), list.end(),
            [](const SnapshotInfo& a, const SnapshotInfo& b) { return a.id < b.id; });
  return list;
}

Result<uint64_t> ImageImpl::find_snapshot(std::string_view name) const {
  PCOW_TRY_ASSIGN(const std::optional<uint64_t> place, layers_.find(name));
  if (place) return *place;
  return make_error(Code::kNotFound, "'" + media_->file().path() + "' has no snapshot '" +
                                         std::string(name) +
                                         "'; 'pcow-img snapshot -l' lists those it has");
}

// Part of opening: from here on the image is what the snapshot keeps.
Result<void> ImageImpl::show_snapshot(const std::string& name) {
  if (access_ == Access::kReadWrite) {
    return make_error(Code::kInvalid, "a snapshot can be opened for reading only");
  }
  PCOW_TRY_ASSIGN(const uint64_t place, find_snapshot(name));
  PCOW_TRY_ASSIGN(const LayerRecord record, layers_.read(place));
  PCOW_TRY(validate_layer(record));
  snapshot_place_ = place;
  virtual_size_ = record.virtual_size;
  return {};
}

// Versions that know nothing of layers must not open what follows: durable before it.
Result<void> ImageImpl::mark_layered() {
  PCOW_TRY(begin_writing());
  format::Superblock next = superblocks_.current();
  if ((next.incompatible & format::kIncompatibleLayers) != 0) return {};
  next.incompatible = next.incompatible | format::kIncompatibleLayers;
  return update_superblock(next);
}

// Inside a transaction: a new active layer that shows what `view` shows. Returns the place of its
// record.
Result<uint64_t> ImageImpl::add_active_layer(const LayerRecord& view, LayerId parent) {
  PCOW_TRY_ASSIGN(const uint64_t place, layers_.find_free());
  PCOW_TRY_ASSIGN(format::Block * root_block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  auto& root_ref = root_block->as<format::RootBlock>();
  LayerRecord record{};
  record.id = root_ref.next_layer_id;
  record.parent = parent.value;
  record.created_ns = now_ns();
  record.virtual_size = view.virtual_size;
  record.base_size = view.base_size;
  const uint64_t gibs = (view.virtual_size + kGiB - 1) / kGiB;
  for (uint64_t first = 0; first < gibs; first += format::kGibsPerBlock) {
    const uint64_t slot = first / format::kGibsPerSlot;
    const uint64_t in_slot = first % format::kGibsPerSlot / format::kGibsPerBlock;
    if (record.tables[slot] == 0) {
      PCOW_TRY_ASSIGN(const uint64_t fresh, allocator_.take_slot());
      record.tables[slot] = fresh;
    }
    PCOW_TRY_ASSIGN(
        const format::Block* from,
        store_.block(view.tables[slot] + in_slot * format::kBlockSize, BlockType::kLayerTable));
    const auto entries = from->as<format::LayerTableBlock>().chunk_tables;
    format::Block* to = store_.create_block(record.tables[slot] + in_slot * format::kBlockSize,
                                            BlockType::kLayerTable, record.id);
    to->as<format::LayerTableBlock>().chunk_tables = entries;
  }
  root_ref.active_layer = record.id;
  root_ref.next_layer_id = record.id + 1;
  root_ref.active_record = place;
  root_ref.virtual_size = record.virtual_size;
  root_ref.layer_count = root_ref.layer_count + 1;
  PCOW_TRY_ASSIGN(LayerRecord * there, layers_.modify(place));
  *there = record;
  return place;
}

Result<void> ImageImpl::create_snapshot(std::string_view name) {
  PCOW_TRY(check_writable());
  PCOW_TRY(check_name(name));
  PCOW_TRY_ASSIGN(const std::optional<uint64_t> same_name, layers_.find(name));
  if (same_name) {
    return make_error(Code::kExists, "'" + media_->file().path() + "' has a snapshot '" +
                                         std::string(name) +
                                         "' already: delete it first, or choose another name");
  }
  PCOW_TRY(commit());
  give_back_ahead();
  PCOW_TRY(finish_trim());
  PCOW_TRY(mark_layered());
  return with_transaction([&]() -> Result<void> {
    PCOW_TRY_ASSIGN(const uint64_t place, layer_place());
    PCOW_TRY_ASSIGN(const LayerRecord active, layers_.read(place));
    PCOW_TRY(add_active_layer(active, LayerId(active.id)));
    PCOW_TRY_ASSIGN(LayerRecord * record, layers_.modify(place));
    record->flags = record->flags | format::kLayerFrozen;
    record->created_ns = now_ns();
    record->epoch = durable_epoch_.value;
    set_name(*record, name);
    return commit_transaction();
  });
}

// Inside a transaction: the layer is gone for everybody but finish_deletion().
Result<void> ImageImpl::mark_deleting(uint64_t place) {
  PCOW_TRY_ASSIGN(const LayerRecord gone, layers_.read(place));
  std::vector<uint64_t> orphans;
  const auto visit = [&](uint64_t at, const LayerRecord& other) -> Result<void> {
    if (other.parent == gone.id) orphans.push_back(at);
    return {};
  };
  PCOW_TRY(layers_.for_each(visit));
  for (const uint64_t at : orphans) {
    PCOW_TRY_ASSIGN(LayerRecord * other, layers_.modify(at));
    other->parent = gone.parent;
  }
  PCOW_TRY_ASSIGN(LayerRecord * record, layers_.modify(place));
  record->flags = format::kLayerFrozen | format::kLayerDeleting;
  record->parent = 0;
  set_name(*record, {});
  PCOW_TRY_ASSIGN(format::Block * root_block,
                  store_.modify_block(format::kRootOffset, BlockType::kRoot));
  root_block->as<format::RootBlock>().deleting_record = place;
  deletion_next_ = GibIndex(0);
  merging_.reset();
  return {};
}

Result<void> ImageImpl::apply_snapshot(std::string_view name) {
  PCOW_TRY(check_writable());
  PCOW_TRY_ASSIGN(const uint64_t place, find_snapshot(name));
  give_back_ahead();
  PCOW_TRY(drop_epoch());
  PCOW_TRY(finish_trim());
  PCOW_TRY(finish_deletion());
  PCOW_TRY_ASSIGN(const LayerRecord snapshot, layers_.read(place));
  PCOW_TRY(validate_layer(snapshot));
  const auto change = [&]() -> Result<void> {
    PCOW_TRY_ASSIGN(const uint64_t old_active, layer_place());
    PCOW_TRY(add_active_layer(snapshot, LayerId(snapshot.id)));
    PCOW_TRY(mark_deleting(old_active));
    PCOW_TRY_ASSIGN(format::Block * root_block,
                    store_.modify_block(format::kRootOffset, BlockType::kRoot));
    auto& root_ref = root_block->as<format::RootBlock>();
    root_ref.committed_epoch = root_ref.committed_epoch + 1;  // another state
    return commit_transaction();
  };
  PCOW_TRY(with_transaction(change));
  virtual_size_ = snapshot.virtual_size;
  durable_epoch_ = durable_epoch_ + 1;
  written_since_commit_ = false;
  return finish_deletion();
}

}  // namespace pcow
