// SPDX-License-Identifier: BSD-3-Clause
//
// Making and giving back space of image space, past the page cache, from a thread of its own.
//
// Space that fallocate(2) reserves is "unwritten": the first write to it is cheaper than one to a
// hole, but its flush converts the extent, page by page where pages are scattered. Zeros written
// with O_DIRECT leave space that is there and written, and no page in the cache.
#pragma once

#include <pcow/status.h>
#include <cstdint>
#include <optional>
#include <vector>

#include "pcow/format/block.h"
#include "pcow/media/media.h"

namespace pcow {

class DirectSpace {
 public:
  // One call takes at most so much; as long as that, nobody else writes to the file.
  static constexpr uint64_t kPieceSize = 128 * kKiB;

  // None where it does not pay, or is not safe (ARCHITECTURE.md, "Space ahead of need"), on any of
  // the files. REQUIRES: `media` outlives it.
  static std::optional<DirectSpace> open(const Media& media);

  DirectSpace(DirectSpace&& other) noexcept = default;
  DirectSpace& operator=(DirectSpace&&) = delete;
  ~DirectSpace();

  // Backs whole pages with space that holds zeros. REQUIRES: they hold zeros or nothing, lie in one
  // window, at most kPieceSize. On failure some may have space. Errors: kNoSpace, kIo.
  Result<void> fill(uint64_t offset, uint64_t length) const;
  // Makes pages of one window holes. Errors: kIo.
  Result<void> release(uint64_t offset, uint64_t length) const;

 private:
  explicit DirectSpace(const ImageFile& file);

  const ImageFile* file_;
  std::vector<int> fds_;          // by file; its own
  std::vector<std::byte> zeros_;  // with an aligned piece in it
};

}  // namespace pcow
