// SPDX-License-Identifier: BSD-3-Clause
//
// Any file taken as an image of the published pcow. The input is a list of pages to write the start
// of: number (1), n (1), n bytes; the file has 256 pages.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "pcow/base/zero.h"
#include "tests/fuzz/fuzz.h"
#include "tools/common/failure.h"
#include "tools/pcow-img/content.h"

using fuzz::require;
using pcow::kPageSize;

namespace {

constexpr uint64_t kFilePages = 256;
constexpr uint64_t kRunsMax = 64;

int make_file(const uint8_t* data, size_t size) {
  const int fd = memfd_create("fuzz", MFD_CLOEXEC);
  require(fd >= 0 && ftruncate(fd, kFilePages * kPageSize) == 0, "a file in memory can be made");
  while (size > 2) {
    const auto offset = static_cast<off_t>(data[0] * kPageSize);
    const size_t length = std::min<size_t>(data[1], size - 2);
    require(pwrite(fd, data + 2, length, offset) == static_cast<ssize_t>(length),
            "a file in memory takes bytes");
    data += 2 + length;
    size -= 2 + length;
  }
  return fd;
}

void read_some(const pcow_img::Content& content) {
  std::vector<std::byte> page(kPageSize);
  uint64_t at = 0;
  for (uint64_t n = 0; n < kRunsMax && at < content.padded_size(); ++n) {
    const pcow_img::Extent run = content.extent(at);
    require(run.start == at && run.length > 0 && run.length <= content.padded_size() - at,
            "runs follow each other inside the content");
    for (const uint64_t place : {at, at + run.length - kPageSize}) {
      content.read(place, page);
      require(run.data || pcow::is_zero(page), "a hole reads as zeros");
    }
    at += run.length;
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = make_file(data, size);
  try {
    const std::string path = "/proc/self/fd/" + std::to_string(fd);
    read_some(*pcow_img::open_nbjl_content(path));
  } catch (const tools::Failure&) {  // what a damaged file is to end with
  }
  close(fd);
  return 0;
}
