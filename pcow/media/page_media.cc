// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/page_media.h"

namespace pcow {

Result<void> PageMedia::write_impl(uint64_t offset, std::span<const iovec> parts) {
  return file().write(offset, parts);
}

Result<void> PageMedia::stream_impl(uint64_t offset, std::span<const std::byte> data) {
  const iovec part{const_cast<std::byte*>(data.data()), data.size()};
  return write_impl(offset, std::span(&part, 1));
}

Result<void> PageMedia::flush_impl() { return file().sync(); }

}  // namespace pcow
