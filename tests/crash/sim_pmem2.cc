// SPDX-License-Identifier: BSD-3-Clause
//
// The functions of libpmem2 that pcow/media/pmem_media.cc uses, on the simulated medium. A mapping
// is an inaccessible range of addresses: the only way to store through it is the copy function, so
// a store past the recorder is a fault and not a gap in the trace.
#include <libpmem2.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/crash/sim_medium.h"

// libpmem2 leaves these to the library.
struct pmem2_config {
  size_t offset = 0;
  size_t length = 0;
};
struct pmem2_source {
  uint64_t file;  // where it begins on the medium
};
struct pmem2_map {
  size_t offset;
};

namespace {

using crash::MediumKind;
using crash::SimMedium;

constexpr size_t kAddressSpace = 64 * pcow::kGiB;

// The address of byte 0 of the medium.
std::byte* base_address() {
  static void* const kBase =
      mmap(nullptr, kAddressSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (kBase == MAP_FAILED) {
    std::perror("cannot reserve addresses for the simulated medium");
    std::exit(2);
  }
  return static_cast<std::byte*>(kBase);
}

void drain() { SimMedium::get().drain(); }

void* copy(void* to, const void* from, size_t length, unsigned flags) {
  const auto offset = static_cast<uint64_t>(static_cast<std::byte*>(to) - base_address());
  SimMedium::get().store(offset, std::span(static_cast<const std::byte*>(from), length),
                         (flags & PMEM2_F_MEM_NOFLUSH) == 0);
  if ((flags & (PMEM2_F_MEM_NODRAIN | PMEM2_F_MEM_NOFLUSH)) == 0) drain();
  return to;
}

}  // namespace

extern "C" {

int pmem2_config_new(pmem2_config** config) {
  *config = new pmem2_config;
  return 0;
}
int pmem2_config_delete(pmem2_config** config) {
  delete *config;
  *config = nullptr;
  return 0;
}
int pmem2_config_set_required_store_granularity(pmem2_config* /*config*/,
                                                pmem2_granularity /*granularity*/) {
  return 0;
}
int pmem2_config_set_offset(pmem2_config* config, size_t offset) {
  config->offset = offset;
  return 0;
}
int pmem2_config_set_length(pmem2_config* config, size_t length) {
  config->length = length;
  return 0;
}
int pmem2_config_set_protection(pmem2_config* /*config*/, unsigned /*protection*/) { return 0; }

int pmem2_source_from_fd(pmem2_source** source, int fd) {
  *source = new pmem2_source{SimMedium::get().file_of(fd)};
  return 0;
}
int pmem2_source_delete(pmem2_source** source) {
  delete *source;
  *source = nullptr;
  return 0;
}

int pmem2_map_new(pmem2_map** map, const pmem2_config* config, const pmem2_source* source) {
  const uint64_t size = SimMedium::get().content().size_at(source->file);
  if (config->offset > size || config->length > size - config->offset) {
    return PMEM2_E_MAP_RANGE;
  }
  *map = new pmem2_map{source->file + config->offset};
  return 0;
}
int pmem2_map_delete(pmem2_map** map) {
  delete *map;
  *map = nullptr;
  return 0;
}
void* pmem2_map_get_address(pmem2_map* map) { return base_address() + map->offset; }
pmem2_granularity pmem2_map_get_store_granularity(pmem2_map* /*map*/) {
  return SimMedium::get().kind() == MediumKind::kPmem ? PMEM2_GRANULARITY_CACHE_LINE
                                                      : PMEM2_GRANULARITY_PAGE;
}
pmem2_memcpy_fn pmem2_get_memcpy_fn(pmem2_map* /*map*/) { return copy; }
pmem2_drain_fn pmem2_get_drain_fn(pmem2_map* /*map*/) { return drain; }
const char* pmem2_errormsg() { return "simulated"; }

}  // extern "C"
