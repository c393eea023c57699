// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/pmem_media.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace pcow {
namespace {

constexpr unsigned kStreaming = PMEM2_F_MEM_NONTEMPORAL | PMEM2_F_MEM_NODRAIN;

struct Pmem2ConfigDelete {
  void operator()(pmem2_config* config) const { pmem2_config_delete(&config); }
};
struct Pmem2SourceDelete {
  void operator()(pmem2_source* source) const { pmem2_source_delete(&source); }
};

// libpmem2 returns 0, a negative errno, or a code of its own (PMEM2_E_*: -100000 and below), which
// stands for an unsuitable file or range.
Error pmem2_error(int code, const File& file, const char* what) {
  const int sys_errno = code > PMEM2_E_UNKNOWN ? -code : EINVAL;
  Error error = errno_error(sys_errno, std::string(what) + " '" + file.path() + "'");
  error.message += std::string(" (libpmem2: ") + pmem2_errormsg() + ")";
  return error;
}

Result<Pmem2Map> map_range(const File& file, uint64_t offset, uint64_t length, Access access) {
  pmem2_config* raw_config = nullptr;
  if (const int rc = pmem2_config_new(&raw_config)) return pmem2_error(rc, file, "cannot map");
  const std::unique_ptr<pmem2_config, Pmem2ConfigDelete> config(raw_config);
  pmem2_source* raw_source = nullptr;
  if (const int rc = pmem2_source_from_fd(&raw_source, file.fd())) {
    return pmem2_error(rc, file, "cannot map");
  }
  const std::unique_ptr<pmem2_source, Pmem2SourceDelete> source(raw_source);
  pmem2_map* map = nullptr;
  for (const int rc :
       {pmem2_config_set_required_store_granularity(config.get(), PMEM2_GRANULARITY_PAGE),
        pmem2_config_set_offset(config.get(), offset),
        pmem2_config_set_length(config.get(), length),
        pmem2_config_set_protection(config.get(), access == Access::kReadOnly
                                                      ? PMEM2_PROT_READ
                                                      : PMEM2_PROT_READ | PMEM2_PROT_WRITE)}) {
    if (rc != 0) return pmem2_error(rc, file, "cannot map");
  }
  if (const int rc = pmem2_map_new(&map, config.get(), source.get())) {
    return pmem2_error(rc, file, "cannot map");
  }
  return Pmem2Map(map);
}

}  // namespace

Result<Granularity> probe_granularity(const File& file, Access access) {
  PCOW_TRY_ASSIGN(const Pmem2Map map, map_range(file, 0, kWindowSize, access));
  switch (pmem2_map_get_store_granularity(map.get())) {
    case PMEM2_GRANULARITY_BYTE:
      return Granularity::kByte;
    case PMEM2_GRANULARITY_CACHE_LINE:
      return Granularity::kCacheLine;
    case PMEM2_GRANULARITY_PAGE:
      return Granularity::kPage;
  }
  return make_error(Code::kInternal, "libpmem2 reported an unknown granularity");
}

Result<pmem2_map*> PmemMedia::map_of(MapKey key) {
  if (const auto it = maps_.find(key); it != maps_.end()) return it->second.get();
  const File& in = file().member(key.file);
  PCOW_TRY_ASSIGN(Pmem2Map map,
                  map_range(in, key.gib * kSegmentSize, kSegmentSize, Access::kReadWrite));
  // Or the first store to a hole would allocate 2 MiB of it.
  // EINVAL: a kernel without 2 MiB mappings.
  if (madvise(pmem2_map_get_address(map.get()), kSegmentSize, MADV_NOHUGEPAGE) != 0 &&
      errno != EINVAL) {
    return errno_error(errno, "cannot set up a mapping of '" + in.path() + "'");
  }
  const pmem2_drain_fn drain = pmem2_get_drain_fn(map.get());
  if (std::ranges::find(drains_, drain) == drains_.end()) drains_.push_back(drain);
  return maps_.emplace(key, std::move(map)).first->second.get();
}

Result<void> PmemMedia::write_impl(uint64_t offset, std::span<const iovec> parts) {
  const bool whole_pages =
      offset % kPageSize == 0 &&
      std::ranges::all_of(parts, [](const iovec& part) { return part.iov_len % kPageSize == 0; });
  if (whole_pages) return file().write(offset, parts);
  for (const iovec& part : parts) {
    PCOW_TRY(store(offset, {static_cast<const std::byte*>(part.iov_base), part.iov_len}));
    offset += part.iov_len;
  }
  return {};
}

Result<void> PmemMedia::store(uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ImageFile::Place at = file().place(offset);
    PCOW_TRY_ASSIGN(pmem2_map * map, map_of({at.file, at.offset / kSegmentSize}));
    const uint64_t in_map = at.offset % kSegmentSize;
    const size_t step = std::min({data.size(), at.length, kSegmentSize - in_map});
    auto* to = static_cast<std::byte*>(pmem2_map_get_address(map)) + in_map;
    pmem2_get_memcpy_fn(map)(to, data.data(), step, kStreaming);
    offset += step;
    data = data.subspan(step);
  }
  return {};
}

Result<void> PmemMedia::stream_impl(uint64_t offset, std::span<const std::byte> data) {
  return store(offset, data);
}

Result<Copied> PmemMedia::stream_changing_impl(uint64_t offset, std::span<const std::byte> data,
                                               uint32_t crc) {
  const ImageFile::Place at = file().place(offset);
  const uint64_t in_map = at.offset % kSegmentSize;
  if (data.size() > std::min(at.length, kSegmentSize - in_map)) {
    return Media::stream_changing_impl(offset, data, crc);
  }
  PCOW_TRY_ASSIGN(pmem2_map * map, map_of({at.file, at.offset / kSegmentSize}));
  std::byte* const to = static_cast<std::byte*>(pmem2_map_get_address(map)) + in_map;
  const pmem2_memcpy_fn copy = pmem2_get_memcpy_fn(map);
  return copy_changing(data, crc, [&](size_t done, std::span<const std::byte> piece) {
    copy(to + done, piece.data(), piece.size(), kStreaming);
  });
}

Result<void> PmemMedia::flush_impl() {
  for (const pmem2_drain_fn drain : drains_) drain();
  // A drain makes stores durable, but not what system calls wrote and the file system changed.
  return file().sync_needed() ? file().sync() : Result<void>();
}

}  // namespace pcow
