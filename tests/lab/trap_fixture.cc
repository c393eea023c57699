// SPDX-License-Identifier: BSD-3-Clause
#include "tests/lab/trap_fixture.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace lab {

std::unique_ptr<pcow::Image> create_filled_image(const std::string& path, uint64_t size,
                                                 uint64_t pages) {
  auto image = create_image(path, size);
  std::vector<std::byte> data(pages * pcow::kPageSize);
  std::vector<pcow::PageWrite> writes;
  writes.reserve(pages);
  for (uint64_t page = 0; page < pages; ++page) {
    std::byte* at = data.data() + page * pcow::kPageSize;
    const uint64_t mark = page + 1;
    std::memcpy(at + tiering::testing::kMarkOffset, &mark, sizeof mark);
    writes.push_back({pcow::PageIndex(page), at});
  }
  tiering::testing::must(image->write_pages(writes));
  tiering::testing::must(image->commit());
  return image;
}

bool KernelTrapTest::medium_is_dax() const {
  const std::string path = directory_.file("dax-probe");
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  struct statx found = {};
  const bool known = fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &found) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (!known) throw std::runtime_error(path + ": " + std::strerror(error));
  const bool dax = (found.stx_attributes & STATX_ATTR_DAX) != 0;
  // The lab says which medium it is: tests for DAX must not be left out where there should be DAX.
  const char* name = std::getenv("PCOW_MEDIUM");
  if (name != nullptr && std::string_view(name).ends_with("-dax") != dax) {
    throw std::runtime_error(
        std::string("the medium ") + name +
        (dax ? " is DAX" : " is not DAX: its files go through the page cache"));
  }
  return dax;
}

}  // namespace lab
