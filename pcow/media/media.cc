// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/media.h"

#include <unistd.h>

#include <cerrno>

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

Result<std::unique_ptr<Media>> Media::open(File file, Access access) {
  PCOW_TRY_ASSIGN(const uint64_t size, file.size());
  // An empty or tiny file cannot be mapped; the superblock reader says what is wrong with it.
  if (size < kWindowSize)
    return std::unique_ptr<Media>(std::make_unique<PageMedia>(std::move(file)));
  PCOW_TRY_ASSIGN(const Granularity granularity, probe_granularity(file, access));
  if (granularity == Granularity::kPage) {
    return std::unique_ptr<Media>(std::make_unique<PageMedia>(std::move(file)));
  }
  return std::unique_ptr<Media>(std::make_unique<PmemMedia>(std::move(file), granularity));
}

Result<void> Media::read(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t start = offset;
  while (!out.empty()) {
    const ssize_t n = pread(file_.fd(), out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno,
                         "cannot read '" + file_.path() + "' at offset " + std::to_string(offset));
    }
    if (n == 0) {
      return make_error(Code::kCorrupt, "'" + file_.path() + "' is truncated: nothing to read at " +
                                            std::to_string(start) +
                                            "; restore the file from a copy");
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<void> Media::write(uint64_t offset, std::span<const std::byte> data) {
  // iovec is not const-correct; write_impl only reads through it.
  const iovec part{const_cast<std::byte*>(data.data()), data.size()};
  return write_impl(offset, std::span(&part, 1));
}

Result<void> Media::write(uint64_t offset, std::span<const iovec> parts) {
  return write_impl(offset, parts);
}

Result<void> Media::stream(uint64_t offset, std::span<const std::byte> data) {
  return stream_impl(offset, data);
}

Result<void> Media::flush() { return flush_impl(); }

}  // namespace pcow
