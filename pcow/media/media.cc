// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/media.h"

#include <algorithm>

#include "pcow/base/no_memory.h"
#include "pcow/media/page_media.h"
#include "pcow/media/pmem_media.h"

namespace pcow {

std::string_view granularity_name(Granularity granularity) {
  switch (granularity) {
    case Granularity::kByte:
      return "byte";
    case Granularity::kCacheLine:
      return "cache-line";
    case Granularity::kPage:
      return "page";
  }
  return "unknown";
}

Result<std::unique_ptr<Media>> Media::open(ImageFile file, Access access) {
  Granularity granularity = Granularity::kByte;
  for (uint32_t index = 0; index < file.count(); ++index) {
    PCOW_TRY_ASSIGN(const uint64_t size, file.member(index).size());
    // An empty or tiny file cannot be mapped; the superblock reader says what is wrong with it.
    Granularity here = Granularity::kPage;
    if (size >= kWindowSize) {
      PCOW_TRY_ASSIGN(here, probe_granularity(file.member(index), access));
    }
    granularity = std::max(granularity, here);
  }
  if (granularity == Granularity::kPage) {
    return std::unique_ptr<Media>(std::make_unique<PageMedia>(std::move(file)));
  }
  return std::unique_ptr<Media>(std::make_unique<PmemMedia>(std::move(file), granularity));
}

Result<void> Media::read(uint64_t offset, std::span<std::byte> out) const {
  return file_.read(offset, out);
}

const std::byte* Media::mapped(uint64_t, uint64_t) { return nullptr; }

bool Media::has_space(uint64_t, uint64_t) { return false; }

Result<void> Media::reserve(uint64_t offset, uint64_t length) {
  return has_space(offset, length) ? Result<void>() : file_.reserve(offset, length);
}

Result<std::span<const std::byte>> Media::look(uint64_t offset, std::span<std::byte> buffer) {
  if (const std::byte* there = mapped(offset, buffer.size()); there != nullptr) {
    return std::span(there, buffer.size());
  }
  PCOW_TRY(read(offset, buffer));
  return buffer;
}

Result<void> Media::write(StoreCause cause, uint64_t offset, std::span<const std::byte> data) {
  // iovec is not const-correct; write_impl only reads through it.
  const iovec part{const_cast<std::byte*>(data.data()), data.size()};
  return write(cause, offset, std::span(&part, 1));
}

Result<void> Media::write(StoreCause cause, uint64_t offset, std::span<const iovec> parts) {
  uint64_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return count(cause, bytes,
               memory_checked(file_.path(), [&] { return write_impl(offset, parts); }));
}

Result<void> Media::stream(StoreCause cause, uint64_t offset, std::span<const std::byte> data) {
  return count(cause, data.size(),
               memory_checked(file_.path(), [&] { return stream_impl(offset, data); }));
}

Result<Copied> Media::stream_changing(StoreCause cause, uint64_t offset,
                                      std::span<const std::byte> data, uint32_t crc) {
  Copied copied{};
  PCOW_TRY(count(cause, data.size(), memory_checked(file_.path(), [&]() -> Result<void> {
                   PCOW_TRY_ASSIGN(copied, stream_changing_impl(offset, data, crc));
                   return {};
                 })));
  return copied;
}

Result<Copied> Media::stream_changing_impl(uint64_t offset, std::span<const std::byte> data,
                                           uint32_t crc) {
  Result<void> result;
  const Copied copied = copy_changing(data, crc, [&](size_t at, std::span<const std::byte> piece) {
    if (result) result = stream_impl(offset + at, piece);
  });
  PCOW_TRY(std::move(result));
  return copied;
}

// Also of a store that failed: nobody knows how much of it was done.
Result<void> Media::count(StoreCause cause, uint64_t bytes, Result<void> result) {
  stored_.*(copying_ ? &StoredBytes::copies : cause) += bytes;
  return result;
}

Result<void> Media::flush() {
  return memory_checked(file_.path(), [&] { return flush_impl(); });
}

}  // namespace pcow
