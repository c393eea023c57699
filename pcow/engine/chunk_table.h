// SPDX-License-Identifier: BSD-3-Clause
//
// One chunk table (FORMAT.md, section 9): which pages of one guest GiB a layer owns, and where.
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <array>
#include <string>

#include "pcow/engine/metadata_store.h"

namespace pcow {

inline PageMap to_page_map(const format::PageMapBytes& bytes) {
  PageMap map;
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    map[page] = (bytes[page / 8] >> (page % 8) & 1) != 0;
  }
  return map;
}

// Bit `index` of a page map, or of the map of owning chunks.
inline bool owns(const format::PageMapBytes& bytes, uint64_t index) {
  return (bytes[index / 8] >> (index % 8) & 1) != 0;
}

inline void set_owned(format::PageMapBytes& bytes, uint64_t index) {
  bytes[index / 8] = static_cast<uint8_t>(bytes[index / 8] | 1u << (index % 8));
}

inline format::PageMapBytes to_map_bytes(const PageMap& map) {
  format::PageMapBytes bytes{};
  for (size_t page = 0; page < kPagesPerChunk; ++page) {
    if (map[page]) set_owned(bytes, page);
  }
  return bytes;
}

// Read access without caching: the entries of a table, verified. 12 KiB.
struct ChunkEntries {
  format::Block header;
  std::array<format::Block, 2> blocks;

  const format::ChunkEntry& entry(uint64_t chunk_in_segment) const;
  const format::ChunkTableHeader& fields() const { return header.as<format::ChunkTableHeader>(); }
  uint64_t segment_offset() const { return fields().segment; }
  uint64_t owned_pages() const;  // of all chunks
};

// Access to one table by way of the store; every page is verified when it is first used.
class ChunkTable {
 public:
  // `offset` of the slot; `gib` it must describe; `image_end` bounds the offsets in it.
  ChunkTable(MetadataStore& store, const format::Uuid& uuid, uint64_t offset, GibIndex gib,
             uint64_t image_end, const std::string& path)
      : store_(&store),
        uuid_(uuid),
        offset_(offset),
        gib_(gib),
        image_end_(image_end),
        path_(&path) {}

  // Verify and return copies: of the header; of header and entries. Errors: kCorrupt, kIo.
  Result<void> read_header(format::Block& out) const;
  Result<void> read_entries(ChunkEntries& out) const;
  // The page map of a chunk whose entry is `entry`, verified against it.
  Result<format::PageMapBytes> page_map(uint64_t chunk, const format::ChunkEntry& entry) const;

  // Inside a transaction: gives the chunk's state the map `map`. Call finish() when done.
  Result<void> set_map(uint64_t chunk, const format::PageMapBytes& map, uint64_t segment_offset);
  // Inside a transaction: the chunk becomes a hole.
  Result<void> clear(uint64_t chunk);
  // Inside a transaction: recomputes what covers the entries.
  Result<void> finish();
  // Inside a transaction: makes the pages of a new table. `parent`: the table that shows through
  // it, or 0.
  void create(LayerId layer, uint64_t segment_offset, uint64_t parent);
  // Inside a transaction: the header of the table, for what finish() does not compute. The layer
  // goes with set_layer(); `layer` 0: of none.
  Result<format::ChunkTableHeader*> modify_header();
  Result<void> set_layer(LayerId layer);

  GibIndex gib() const { return gib_; }
  uint64_t offset() const { return offset_; }

 private:
  Result<void> set_entry(uint64_t chunk, const format::ChunkEntry& entry,
                         const format::PageMapBytes& map);
  Result<void> verify_header(const format::Block& block) const;
  Error damaged(const std::string& what) const;

  MetadataStore* store_;
  format::Uuid uuid_;
  uint64_t offset_;
  GibIndex gib_;
  uint64_t image_end_;
  const std::string* path_;
};

}  // namespace pcow
