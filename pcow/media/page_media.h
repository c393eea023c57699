// SPDX-License-Identifier: BSD-3-Clause
//
// Media of page granularity (tmpfs, ordinary file systems): stores go through pwrite(2), so that a
// full or failing medium is an error and not a SIGBUS, and fdatasync(2) makes them durable.
#pragma once

#include "pcow/media/media.h"

namespace pcow {

class PageMedia final : public Media {
 public:
  explicit PageMedia(ImageFile file) : Media(std::move(file), Granularity::kPage) {}

 private:
  Result<void> write_impl(uint64_t offset, std::span<const iovec> parts) override;
  Result<void> stream_impl(uint64_t offset, std::span<const std::byte> data) override;
  Result<void> flush_impl() override;
};

}  // namespace pcow
