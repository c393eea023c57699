// SPDX-License-Identifier: BSD-3-Clause
#include "tests/support/small_tmpfs.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace test {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno) + " (this test needs root)");
}

void enter_own_mount_namespace() {
  static const bool kDone = [] {
    if (unshare(CLONE_NEWNS) != 0) fail("cannot make a mount namespace");
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      // In a chroot "/" need not be a mount point; then nothing is shared with it either.
      if (errno != EINVAL) fail("cannot make mounts private");
    }
    return true;
  }();
  (void)kDone;
}

}  // namespace

SmallTmpfs::SmallTmpfs(uint64_t size_bytes) {
  enter_own_mount_namespace();
  const std::string options = "size=" + std::to_string(size_bytes);
  if (mount("tmpfs", dir_.path().c_str(), "tmpfs", 0, options.c_str()) != 0) {
    fail("cannot mount a tmpfs");
  }
}

void SmallTmpfs::resize(uint64_t size_bytes) const {
  const std::string options = "size=" + std::to_string(size_bytes);
  if (mount("tmpfs", dir_.path().c_str(), "tmpfs", MS_REMOUNT, options.c_str()) != 0) {
    fail("cannot resize a tmpfs");
  }
}

SmallTmpfs::~SmallTmpfs() { umount2(dir_.path().c_str(), MNT_DETACH); }

void SmallTmpfs::fill(const std::string& name) const {
  const int fd = open(file(name).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) fail("cannot create a file");
  const std::vector<char> page(4096, 'x');
  while (write(fd, page.data(), page.size()) > 0) {
  }
  close(fd);
}

}  // namespace test
