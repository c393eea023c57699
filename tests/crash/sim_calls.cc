// SPDX-License-Identifier: BSD-3-Clause
//
// The system calls of pcow/media/file.cc, page_media.cc and of the checker, on the simulated
// medium. Linking this replaces them in the whole program; other files pass through.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <string_view>

#include "tests/crash/sim_medium.h"

namespace {

using crash::SimMedium;
using pcow::kPageSize;

template <typename Function>
Function* real(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

bool ours(int fd) { return fd >= SimMedium::kFirstFd; }
SimMedium& medium() { return SimMedium::get(); }

int fails(int sys_errno) {
  errno = sys_errno;
  return -1;
}

int open_file(uint64_t file, int flags) {
  const bool create = (flags & O_CREAT) != 0;
  if (create && medium().exists(file)) return fails(EEXIST);
  if (!create && !medium().exists(file)) return fails(ENOENT);
  return medium().open_file(file, create);
}

uint64_t size_of(int fd) { return medium().content().size_at(medium().file_of(fd)); }

// The place on the medium of an offset in a file.
uint64_t place(int fd, off_t offset) {
  return medium().file_of(fd) + static_cast<uint64_t>(offset);
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  if (path == std::string_view(crash::kImagePath)) return open_file(0, flags);
  if (path == crash::kMemberPath) return open_file(crash::kSecondFile, flags);
  if (path == crash::kImageDirectory) return medium().open_directory();
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  static auto* const kNext = real<int(const char*, int, ...)>("open");
  return kNext(path, flags, mode);
}

int close(int fd) {
  if (ours(fd)) {
    medium().close_fd(fd);
    return 0;
  }
  static auto* const kNext = real<int(int)>("close");
  return kNext(fd);
}

// With what the engine asks of it.
int fcntl(int fd, int command, ...) {
  std::va_list arguments;
  va_start(arguments, command);
  void* const argument = va_arg(arguments, void*);
  va_end(arguments);
  if (ours(fd)) return command == F_DUPFD_CLOEXEC ? medium().duplicate(fd) : fails(EINVAL);
  static auto* const kNext = real<int(int, int, ...)>("fcntl");
  return kNext(fd, command, argument);
}

int flock(int fd, int operation) noexcept {
  if (ours(fd)) return medium().lock(fd, operation) ? 0 : fails(EWOULDBLOCK);
  static auto* const kNext = real<int(int, int)>("flock");
  return kNext(fd, operation);
}

int fstat(int fd, struct stat* out) noexcept {
  if (ours(fd)) {
    *out = {};
    out->st_mode = S_IFREG | 0600;
    out->st_ino = medium().file_of(fd) / crash::kSecondFile + 1;
    out->st_size = static_cast<off_t>(size_of(fd));
    out->st_blocks = static_cast<blkcnt_t>(medium().content().page_count() * (kPageSize / 512));
    return 0;
  }
  static auto* const kNext = real<int(int, struct stat*)>("fstat");
  return kNext(fd, out);
}

int fstatfs(int fd, struct statfs* out) noexcept {
  if (ours(fd)) {
    *out = {};
    return 0;
  }
  static auto* const kNext = real<int(int, struct statfs*)>("fstatfs");
  return kNext(fd, out);
}

int ftruncate(int fd, off_t length) noexcept {
  if (ours(fd)) {
    medium().resize(medium().file_of(fd), static_cast<uint64_t>(length));
    return 0;
  }
  static auto* const kNext = real<int(int, off_t)>("ftruncate");
  return kNext(fd, length);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
  if (ours(fd)) {
    const uint64_t from = place(fd, offset);
    const auto count = static_cast<uint64_t>(length);
    if (mode == FALLOC_FL_KEEP_SIZE) {
      medium().reserve(from, count);
    } else if (mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)) {
      medium().punch(from, count);
    } else {
      return fails(EOPNOTSUPP);
    }
    return 0;
  }
  static auto* const kNext = real<int(int, int, off_t, off_t)>("fallocate");
  return kNext(fd, mode, offset, length);
}

int fsync(int fd) {
  if (ours(fd)) {
    if (!medium().is_directory(fd)) medium().sync(medium().file_of(fd));
    return 0;
  }
  static auto* const kNext = real<int(int)>("fsync");
  return kNext(fd);
}

int fdatasync(int fd) {
  if (ours(fd)) return fsync(fd);
  static auto* const kNext = real<int(int)>("fdatasync");
  return kNext(fd);
}

ssize_t pread(int fd, void* out, size_t length, off_t offset) {
  if (ours(fd)) {
    const uint64_t size = size_of(fd);
    const auto from = static_cast<uint64_t>(offset);
    const size_t there = from < size ? std::min<uint64_t>(length, size - from) : 0;
    medium().content().read(place(fd, offset), std::span(static_cast<std::byte*>(out), there));
    return static_cast<ssize_t>(there);
  }
  static auto* const kNext = real<ssize_t(int, void*, size_t, off_t)>("pread");
  return kNext(fd, out, length, offset);
}

ssize_t pwritev(int fd, const iovec* parts, int count, off_t offset) {
  if (ours(fd)) {
    std::vector<std::byte> all;
    for (const iovec& part : std::span(parts, static_cast<size_t>(count))) {
      const auto* from = static_cast<const std::byte*>(part.iov_base);
      all.insert(all.end(), from, from + part.iov_len);
    }
    medium().store(place(fd, offset), all, false);  // a drain does not reach it
    return static_cast<ssize_t>(all.size());
  }
  static auto* const kNext = real<ssize_t(int, const iovec*, int, off_t)>("pwritev");
  return kNext(fd, parts, count, offset);
}

off_t lseek(int fd, off_t offset, int whence) noexcept {
  if (!ours(fd)) {
    static auto* const kNext = real<off_t(int, off_t, int)>("lseek");
    return kNext(fd, offset, whence);
  }
  const auto from = static_cast<uint64_t>(offset);
  const crash::SparseBytes& content = medium().content();
  const uint64_t size = size_of(fd);
  if (whence != SEEK_DATA && whence != SEEK_HOLE) return fails(EINVAL);
  if (from >= size) return fails(ENXIO);
  const uint64_t first = place(fd, 0) / kPageSize;
  const uint64_t start = first + from / kPageSize;
  const uint64_t end = first + size / kPageSize;
  const uint64_t page =
      whence == SEEK_DATA ? content.next_present(start, end) : content.next_absent(start, end);
  if (page == end) return whence == SEEK_DATA ? fails(ENXIO) : static_cast<off_t>(size);
  return static_cast<off_t>(std::max(from, (page - first) * kPageSize));
}

// The same in every run, so that a seed names the same states; but others for other states, and one
// after the other.
void uuid_generate(uuid_t out) {
  const uint64_t state = medium().exists(0) ? medium().content().digest() : 0;
  const uint64_t number = crash::mix(state, medium().next_number()) | 1;
  for (size_t at = 0; at < sizeof(uuid_t); at += sizeof(number)) {
    std::memcpy(out + at, &number, sizeof(number));
  }
}

}  // extern "C"
