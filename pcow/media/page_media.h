// SPDX-License-Identifier: BSD-3-Clause
//
// Media of page granularity (tmpfs, ordinary file systems): stores go through pwrite(2), so that a
// full or failing medium is an error and not a SIGBUS, and fdatasync(2) makes them durable.
//
// On tmpfs what has space cannot fail: it is memory. There a log is stored to, and small stores are
// made, through shared mappings, and what has space is read there; a system call takes several
// times as long. (A file that somebody truncates meanwhile is a SIGBUS then, as it is for the guest
// whose memory it holds.)
#pragma once

#include "pcow/media/media.h"
#include "pcow/media/shared_maps.h"

namespace pcow {

class PageMedia final : public Media {
 public:
  explicit PageMedia(ImageFile file);

  uint64_t line_runs_max() const override { return in_memory_ ? 8 : 0; }
  bool streams_at_once() const override { return in_memory_; }

 private:
  Result<void> write_impl(uint64_t offset, std::span<const iovec> parts) override;
  Result<void> stream_impl(uint64_t offset, std::span<const std::byte> data) override;
  Result<Copied> stream_changing_impl(uint64_t offset, std::span<const std::byte> data,
                                      uint32_t crc) override;
  Result<void> flush_impl() override;
  const std::byte* mapped(uint64_t offset, uint64_t length) override;
  bool has_space(uint64_t offset, uint64_t length) override;
  std::byte* to_store(uint64_t offset, uint64_t length);

  const bool in_memory_;  // all of its files
  SharedMaps maps_;
};

}  // namespace pcow
