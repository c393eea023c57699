// SPDX-License-Identifier: BSD-3-Clause
//
// Byte-addressable persistent media: what is smaller than a page is stored through shared libpmem2
// mappings with non-temporal copies, and flush is a drain. One mapping for a GiB of a file, made on
// first store, kept until close.
//
// Whole pages go through pwrite(2) and fdatasync(2): a store to a page that the file system has
// reserved but never written costs one journal commit in its fault (MAP_SYNC), these calls one for
// all of them, and a failing medium is an error instead of a SIGBUS.
#pragma once

#include <libpmem2.h>

#include <map>
#include <memory>
#include <vector>

#include "pcow/media/media.h"

namespace pcow {

// How stores to this file become durable. Maps the first window to find out.
Result<Granularity> probe_granularity(const File& file, Access access);

struct Pmem2Unmap {
  void operator()(pmem2_map* map) const { pmem2_map_delete(&map); }
};
using Pmem2Map = std::unique_ptr<pmem2_map, Pmem2Unmap>;

class PmemMedia final : public Media {
 public:
  PmemMedia(ImageFile file, Granularity granularity) : Media(std::move(file), granularity) {}

 private:
  Result<void> write_impl(uint64_t offset, std::span<const iovec> parts) override;
  Result<void> stream_impl(uint64_t offset, std::span<const std::byte> data) override;
  Result<Copied> stream_changing_impl(uint64_t offset, std::span<const std::byte> data,
                                      uint32_t crc) override;
  Result<void> flush_impl() override;
  Result<void> store(uint64_t offset, std::span<const std::byte> data);
  struct MapKey {
    uint32_t file;
    uint64_t gib;  // of that file

    auto operator<=>(const MapKey&) const = default;  // NOLINT: clang-tidy sees a 0 here
  };
  Result<pmem2_map*> map_of(MapKey key);

  std::map<MapKey, Pmem2Map> maps_;
  std::vector<pmem2_drain_fn> drains_;  // of these: one, unless the files differ in kind
};

}  // namespace pcow
