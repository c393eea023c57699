// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/page_media.h"

#include <cstring>

#include "pcow/base/stream_copy.h"

namespace pcow {
namespace {

bool is_in_memory(const ImageFile& file) {
  for (uint32_t index = 0; index < file.count(); ++index) {
    if (!file.member(index).on_tmpfs()) return false;
  }
  return true;
}

}  // namespace

PageMedia::PageMedia(ImageFile opened)
    : Media(std::move(opened), Granularity::kPage), in_memory_(is_in_memory(file())) {}

// Null where that takes a system call.
std::byte* PageMedia::to_store(uint64_t offset, uint64_t length) {
  return in_memory_ ? maps_.to_store(file(), offset, length) : nullptr;
}

Result<void> PageMedia::write_impl(uint64_t offset, std::span<const iovec> parts) {
  if (parts.size() == 1 && parts.front().iov_len < kPageSize) {
    const iovec& part = parts.front();
    if (std::byte* const to = to_store(offset, part.iov_len); to != nullptr) {
      std::memcpy(to, part.iov_base, part.iov_len);
      return {};
    }
  }
  return file().write(offset, parts);
}

Result<void> PageMedia::stream_impl(uint64_t offset, std::span<const std::byte> data) {
  if (std::byte* const to = to_store(offset, data.size()); to != nullptr) {
    stream_copy(to, data);
    return {};
  }
  const iovec part{const_cast<std::byte*>(data.data()), data.size()};
  return file().write(offset, std::span(&part, 1));
}

Result<Copied> PageMedia::stream_changing_impl(uint64_t offset, std::span<const std::byte> data,
                                               uint32_t crc) {
  std::byte* const to = to_store(offset, data.size());
  if (to == nullptr) return Media::stream_changing_impl(offset, data, crc);
  return copy_changing(
      data, crc, [&](size_t at, std::span<const std::byte> piece) { stream_copy(to + at, piece); });
}

Result<void> PageMedia::flush_impl() {
  stream_fence();
  return file().sync();
}

bool PageMedia::has_space(uint64_t offset, uint64_t length) {
  return in_memory_ && maps_.is_resident(file(), offset, length);
}

const std::byte* PageMedia::mapped(uint64_t offset, uint64_t length) {
  return in_memory_ ? maps_.to_read(file(), offset, length) : nullptr;
}

}  // namespace pcow
