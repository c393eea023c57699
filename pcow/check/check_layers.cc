// SPDX-License-Identifier: BSD-3-Clause
//
// The part of the checker that deals with layers: their records, and what their tables name.
#include <cstring>

#include "pcow/check/checker.h"

namespace pcow {

using format::Block;
using format::BlockType;
using format::LayerRecord;

namespace {

std::string name_of(const LayerRecord& record) { return "layer " + std::to_string(record.id); }

// Why the name of a record is not one; empty if it is.
std::string name_defect(const LayerRecord& record, bool wanted) {
  const size_t length = record.name_length;
  if (!wanted && length != 0) return "it has a name";
  if (wanted && (length == 0 || length > format::kMaxNameLength))
    return "impossible length of its name";
  for (size_t i = 0; i < record.name.size(); ++i) {
    if ((i < length) != (record.name[i] != '\0')) return "impossible name";
  }
  return "";
}

}  // namespace

Result<void> Checker::check_layers() {
  PCOW_TRY(read_directory());
  PCOW_TRY(check_records());
  const auto active = layers_.find(root_.active_layer);
  if (active == layers_.end() || active->second.place != root_.active_record) {
    corrupt("root block: the active layer has no record", root_.active_record);
    return {};
  }
  for (auto& [id, layer] : layers_) PCOW_TRY(check_layer_table(layer));
  PCOW_TRY(check_tables());
  check_table_uses();
  return check_page_counts();
}

Result<void> Checker::read_directory() {
  for (const uint64_t slot : root_.layer_directory) {
    if (slot == 0) continue;
    if (!in_image(slot, format::kSlotSize, format::kSlotSize)) {
      corrupt("root block: layer directory slot outside the image", slot);
      continue;
    }
    claim_slot(slot, "layer directory");
    for (uint64_t index = 0; index < format::kBlocksPerSlot; ++index) {
      PCOW_TRY(read_directory_block(slot + index * format::kBlockSize));
    }
  }
  return {};
}

Result<void> Checker::read_directory_block(uint64_t offset) {
  Block block;
  PCOW_TRY_ASSIGN(const bool there, read(offset, block.bytes));
  const bool holds_active = root_.active_record - root_.active_record % kPageSize == offset;
  if ((!there || block == Block{}) && !holds_active) return {};
  PCOW_TRY_ASSIGN(const bool ok,
                  read_block(offset, BlockType::kLayerDirectory, "layer directory", block));
  if (!ok) return {};
  const auto& directory = block.as<format::LayerDirectoryBlock>();
  check_reserved(directory.reserved, "layer directory", offset);
  for (uint64_t i = 0; i < format::kLayersPerBlock; ++i) {
    const LayerRecord& record = directory.records[i];
    const uint64_t place = offset + sizeof(format::BlockHeader) + i * sizeof(LayerRecord);
    if (record.id == 0) {
      const LayerRecord none{};
      if (std::memcmp(&record, &none, sizeof(none)) != 0) {
        corrupt("layer directory: a free record that is not all zero", place);
      }
      continue;
    }
    if (!layers_.emplace(record.id, Layer{place, record}).second) {
      corrupt("layer directory: two records of " + name_of(record), place);
    }
  }
  return {};
}

Result<void> Checker::check_records() {
  std::set<std::string> names;
  for (const auto& [id, layer] : layers_) {
    const LayerRecord& record = layer.record;
    const bool active = layer.place == root_.active_record;
    const bool deleting = layer.place == root_.deleting_record;
    const uint32_t flags = active     ? 0
                           : deleting ? format::kLayerFrozen | format::kLayerDeleting
                                      : format::kLayerFrozen;
    const bool size_ok = record.virtual_size >= kMinVirtualSize &&
                         record.virtual_size <= kMaxVirtualSize &&
                         record.virtual_size % kChunkSize == 0;
    if (record.flags != flags || !size_ok || id >= root_.next_layer_id ||
        (active && (id != root_.active_layer || record.virtual_size != root_.virtual_size)) ||
        (active && record.epoch != 0)) {
      corrupt("layer directory: impossible record of " + name_of(record), layer.place);
    }
    // Ids ascend, so parents that are smaller cannot form a circle.
    if (record.parent != 0 && (record.parent >= id || !layers_.contains(record.parent))) {
      corrupt("layer directory: impossible parent of " + name_of(record), layer.place);
    }
    const bool named = !active && !deleting;
    if (const std::string defect = name_defect(record, named); !defect.empty()) {
      corrupt("layer directory: " + name_of(record) + ": " + defect, layer.place);
    } else if (named && !names.emplace(record.name.data(), record.name_length).second) {
      corrupt("layer directory: two snapshots have the name of " + name_of(record), layer.place);
    }
    if (record.base_size > record.virtual_size) {
      corrupt("layer directory: " + name_of(record) + " shows more of the base than its size",
              layer.place);
    }
  }
  const bool deleting_known = std::any_of(layers_.begin(), layers_.end(), [&](const auto& layer) {
    return layer.second.place == root_.deleting_record;
  });
  if (root_.deleting_record != 0 && !deleting_known) {
    corrupt("root block: the layer that is being deleted has no record", format::kRootOffset);
  }
  return check_layer_count();
}

Result<void> Checker::check_layer_count() {
  const size_t count = layers_.size();
  const bool marked = (superblock_->incompatible & format::kIncompatibleLayers) != 0;
  const std::string what = "root block: " + std::to_string(count) +
                           " layers have records, it says " + std::to_string(root_.layer_count);
  if (std::max<size_t>(count, root_.layer_count) > 1 && !marked) {
    corrupt(what + "; the feature 'layers' is not set", format::kRootOffset);
  } else if (count < root_.layer_count) {
    // A block of the directory that was lost looks like one that was never used.
    corrupt(what, format::kRootOffset);
  } else if (count != root_.layer_count) {
    repairable(what, format::kRootOffset);
    return plan_block(format::kRootOffset, [count](Block& block) {
      block.as<format::RootBlock>().layer_count = static_cast<uint32_t>(count);
    });
  }
  return {};
}

Result<void> Checker::check_layer_table(Layer& layer) {
  const LayerRecord& record = layer.record;
  const uint64_t gibs = (record.virtual_size + kGiB - 1) / kGiB;
  for (const uint64_t slot : record.tables) {
    if (slot == 0) continue;
    if (!in_image(slot, format::kSlotSize, format::kSlotSize)) {
      corrupt("layer directory: layer table outside the image", slot);
      return {};
    }
    claim_slot(slot, "layer table");
  }
  for (uint64_t first = 0; first < format::kLayerTableSlots * format::kGibsPerSlot;
       first += format::kGibsPerBlock) {
    const uint64_t slot = record.tables[first / format::kGibsPerSlot];
    const uint64_t offset =
        slot + first % format::kGibsPerSlot / format::kGibsPerBlock * format::kBlockSize;
    const bool needed = first < gibs;
    if (slot == 0 && !needed) break;
    if (slot == 0) {
      corrupt("layer directory: a layer table is missing", layer.place);
      return {};
    }
    Block block;
    if (!needed) {  // of an earlier, larger size, or a hole
      PCOW_TRY_ASSIGN(const bool there, read(offset, block.bytes));
      if (!there || block == Block{}) continue;
    }
    PCOW_TRY_ASSIGN(const bool ok,
                    read_block(offset, BlockType::kLayerTable, "layer table", block));
    if (!ok) continue;
    if (block.as<format::LayerTableBlock>().header.owner != record.id) {
      corrupt("layer table: it belongs to another layer", offset);
    }
    check_layer_entries(layer, first, block.as<format::LayerTableBlock>());
  }
  return {};
}

void Checker::check_layer_entries(Layer& layer, uint64_t first_gib,
                                  const format::LayerTableBlock& block) {
  for (uint64_t i = 0; i < format::kGibsPerBlock; ++i) {
    const uint64_t offset = block.chunk_tables[i];
    if (offset == 0) continue;
    if (!in_image(offset, format::kSlotSize, format::kSlotSize)) {
      corrupt("layer table: chunk table outside the image", offset);
      continue;
    }
    layer.tables[first_gib + i] = offset;
    if (Table* table = use_table(offset, first_gib + i)) ++table->layers;
  }
}

// Notes that something names a chunk table. Nothing if it cannot be the one that is meant.
Checker::Table* Checker::use_table(uint64_t offset, uint64_t gib) {
  const auto [place, is_new] = tables_.try_emplace(offset);
  Table& table = place->second;
  if (is_new) {
    table.gib = gib;
    claim_slot(offset, "chunk table");
    found_tables_.push_back(offset);
  } else if (table.gib != gib) {
    corrupt("chunk table of guest GiB " + std::to_string(table.gib) + ": guest GiB " +
                std::to_string(gib) + " uses it too",
            offset);
    return nullptr;
  }
  return &table;
}

Result<void> Checker::check_tables() {
  for (size_t next = 0; next < found_tables_.size(); ++next) {
    const uint64_t offset = found_tables_[next];
    Table& table = tables_.at(offset);
    PCOW_TRY(check_chunk_table(offset, table));
    if (table.parent != 0) {
      if (!in_image(table.parent, format::kSlotSize, format::kSlotSize)) {
        corrupt("chunk table: its parent lies outside the image", offset);
        table.parent = 0;
      } else if (Table* parent = use_table(table.parent, table.gib)) {
        ++parent->children;
      }
    }
    if (*progress_) (*progress_)(next + 1, found_tables_.size());
  }
  if (*progress_) (*progress_)(1, 1);
  return {};
}

// Who may use a chunk table, and how many a look-up may go through (FORMAT.md, section 9).
void Checker::check_table_uses() {
  for (auto& place : tables_) {
    const uint64_t offset = place.first;
    Table& table = place.second;
    if (!table.valid) continue;
    const std::string name = "chunk table of guest GiB " + std::to_string(table.gib);
    const auto layer = layers_.find(table.layer);
    const auto named = [&] {
      const auto entry = layer->second.tables.find(table.gib);
      return entry != layer->second.tables.end() && entry->second == offset;
    };
    if (table.layer != 0 && (layer == layers_.end() || !named())) {
      corrupt(name + ": it belongs to a layer that does not name it", offset);
    }
    if (table.layer == root_.active_layer && table.layers + table.children != 1) {
      corrupt(name + ": it belongs to the active layer, and others use it", offset);
    }
    if (table.layers == 0 && table.children < 2) {
      corrupt(name + ": only one table uses it", offset);
    }
    uint64_t steps = 0;
    for (const Table* at = &table; at->parent != 0 && steps <= layers_.size(); ++steps) {
      const auto parent = tables_.find(at->parent);
      if (parent == tables_.end()) break;
      at = &parent->second;
    }
    if (steps >= layers_.size() && steps > 0) {
      corrupt(name + ": more tables show through it than there are layers", offset);
    }
  }
}

Result<void> Checker::check_page_counts() {
  uint64_t pages = 0;
  std::map<uint64_t, uint64_t> of_layer;
  for (const auto& [offset, table] : tables_) {
    pages += table.pages;
    of_layer[table.layer] += table.pages;
  }
  report_.allocated_pages = pages;
  if (root_.allocated_pages != pages) {
    repairable("page counts: " + std::to_string(pages) + " pages are owned, the root says " +
                   std::to_string(root_.allocated_pages),
               format::kRootOffset);
    PCOW_TRY(plan_block(format::kRootOffset, [pages](Block& block) {
      block.as<format::RootBlock>().allocated_pages = pages;
    }));
  }
  for (const auto& [id, layer] : layers_) {
    const uint64_t owned = of_layer[id];
    if (layer.record.allocated_pages == owned) continue;
    repairable("page counts: " + name_of(layer.record) + " owns " + std::to_string(owned) +
                   " pages, its record says " + std::to_string(layer.record.allocated_pages),
               layer.place);
    const uint64_t in_block = layer.place % format::kBlockSize;
    const auto change = [&](Block& block) {
      block.as<format::LayerDirectoryBlock>()
          .records[(in_block - sizeof(format::BlockHeader)) / sizeof(LayerRecord)]
          .allocated_pages = owned;
    };
    PCOW_TRY(plan_block(layer.place - in_block, change));
  }
  return {};
}

}  // namespace pcow
