// SPDX-License-Identifier: BSD-3-Clause
//
// The records of the layers (FORMAT.md, section 7): finding, adding and removing them. A record is
// named by its place, the image offset that the root's active_record holds for one of them.
#pragma once

#include <pcow/status.h>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "pcow/engine/allocator.h"
#include "pcow/engine/metadata_store.h"

namespace pcow {

// Where a place points to: a block of the directory, a record in it.
struct RecordPlace {
  explicit RecordPlace(uint64_t place)
      : block(place - place % format::kBlockSize),
        index((place - block - sizeof(format::BlockHeader)) / sizeof(format::LayerRecord)) {}
  RecordPlace(uint64_t block_offset, uint64_t record) : block(block_offset), index(record) {}

  uint64_t offset() const {
    return block + sizeof(format::BlockHeader) + index * sizeof(format::LayerRecord);
  }
  // Whether a place from the image can be one at all; `image_end` bounds it.
  static bool is_possible(uint64_t place, uint64_t image_end);

  uint64_t block;
  uint64_t index;
};

std::string_view layer_name(const format::LayerRecord& record);
inline bool is_deleting(const format::LayerRecord& record) {
  return (record.flags & format::kLayerDeleting) != 0;
}

class LayerDirectory {
 public:
  LayerDirectory(MetadataStore& store, Allocator& allocator, const std::string& path)
      : store_(&store), allocator_(&allocator), path_(&path) {}

  // Visits every record in use. Errors: those of `visit`; kCorrupt, kIo.
  using Visit = std::function<Result<void>(uint64_t place, const format::LayerRecord& record)>;
  Result<void> for_each(const Visit& visit) const;
  // The place of the snapshot of this name, which is not being deleted.
  Result<std::optional<uint64_t>> find(std::string_view name) const;

  Result<format::LayerRecord> read(uint64_t place) const;
  // Inside a transaction.
  Result<format::LayerRecord*> modify(uint64_t place);
  // Inside a transaction: the place of a record that is free. kNoSpace: there is none.
  Result<uint64_t> find_free();

 private:
  MetadataStore* store_;
  Allocator* allocator_;
  const std::string* path_;
};

}  // namespace pcow
