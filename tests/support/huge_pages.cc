// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/huge_pages.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <vector>

namespace test {
namespace {

constexpr uint64_t kSize = 2 * 1024 * 1024;
constexpr uint64_t kPageSize = 4096;

bool has_huge_pages() {
  void* const area =
      mmap(nullptr, 2 * kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) return false;
  const auto start = (reinterpret_cast<uintptr_t>(area) + kSize - 1) / kSize * kSize;
  auto* const base = reinterpret_cast<char*>(start);
  madvise(base, kSize, MADV_HUGEPAGE);
  *reinterpret_cast<volatile char*>(base) = 1;
  std::vector<unsigned char> there(kSize / kPageSize);
  const bool huge = mincore(base, kSize, there.data()) == 0 && (there.back() & 1) != 0;
  munmap(area, 2 * kSize);
  return huge;
}

bool moves_pages() {
  constexpr int kUserModeOnly = 1;        // UFFD_USER_MODE_ONLY
  constexpr uint64_t kMove = 1ULL << 16;  // UFFD_FEATURE_MOVE
  const long fd = syscall(SYS_userfaultfd, O_CLOEXEC | kUserModeOnly);
  if (fd < 0) return false;
  uffdio_api api{};
  api.api = UFFD_API;
  const bool asked = ioctl(static_cast<int>(fd), UFFDIO_API, &api) == 0;
  close(static_cast<int>(fd));
  return asked && (api.features & kMove) != 0;
}

}  // namespace

bool host_makes_huge_chunks() { return has_huge_pages() && moves_pages(); }

}  // namespace test
