// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/page_media.h"

namespace pcow {

Result<void> PageMedia::write_impl(uint64_t offset, std::span<const iovec> parts) {
  return file().write(offset, parts);
}

Result<void> PageMedia::stream_impl(uint64_t offset, std::span<const std::byte> data) {
  return write(offset, data);
}

Result<void> PageMedia::flush_impl() { return file().sync(); }

}  // namespace pcow
