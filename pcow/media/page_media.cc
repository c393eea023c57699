// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/page_media.h"

#include <cstring>

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

// False where that takes a system call.
bool PageMedia::store(uint64_t offset, std::span<const std::byte> data) {
  if (!in_memory_) return false;
  std::byte* const to = maps_.to_store(file(), offset, data.size());
  if (to == nullptr) return false;
  std::memcpy(to, data.data(), data.size());
  return true;
}

Result<void> PageMedia::write_impl(uint64_t offset, std::span<const iovec> parts) {
  if (parts.size() == 1 && parts.front().iov_len < kPageSize) {
    const iovec& part = parts.front();
    if (store(offset, {static_cast<const std::byte*>(part.iov_base), part.iov_len})) return {};
  }
  return file().write(offset, parts);
}

Result<void> PageMedia::stream_impl(uint64_t offset, std::span<const std::byte> data) {
  if (store(offset, data)) return {};
  const iovec part{const_cast<std::byte*>(data.data()), data.size()};
  return file().write(offset, std::span(&part, 1));
}

Result<void> PageMedia::flush_impl() { return file().sync(); }

const std::byte* PageMedia::mapped(uint64_t offset, uint64_t length) {
  return in_memory_ ? maps_.to_read(file(), offset, length) : nullptr;
}

}  // namespace pcow
