// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/direct_space.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <utility>

namespace pcow {

namespace {

bool pays_on(const File& file) {
  struct statfs fs = {};
  return !file.on_dax() && fstatfs(file.fd(), &fs) == 0 && fs.f_type == EXT4_SUPER_MAGIC;
}

}  // namespace

std::optional<DirectSpace> DirectSpace::open(const Media& media) {
  if (media.granularity() != Granularity::kPage) return std::nullopt;
  DirectSpace space(media.file());
  for (uint32_t i = 0; i < media.file().count(); ++i) {
    const File& file = media.file().member(i);
    if (!pays_on(file)) return std::nullopt;
    // The same file, whatever its name means by now. O_DIRECT is of a description, so a new one;
    // the lock belongs to the other.
    const std::string self = "/proc/self/fd/" + std::to_string(file.fd());
    const int fd = ::open(self.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd < 0) return std::nullopt;
    space.fds_.push_back(fd);
  }
  return space;
}

DirectSpace::DirectSpace(const ImageFile& file) : file_(&file), zeros_(kPieceSize + kPageSize) {
  fds_.reserve(file.count());
}

DirectSpace::~DirectSpace() {
  for (const int fd : fds_) ::close(fd);
}

Result<void> DirectSpace::fill(uint64_t offset, uint64_t length) const {
  const ImageFile::Place place = file_->place(offset);
  auto at = static_cast<off_t>(place.offset);
  void* start = const_cast<std::byte*>(zeros_.data());  // iovec is not const-correct
  size_t room = zeros_.size();
  std::align(kPageSize, kPieceSize, start, room);
  while (length > 0) {
    const iovec part{start, length};
    const ssize_t n = pwritev(fds_[place.file], &part, 1, at);
    if (n < 0 && errno == EINTR) continue;
    // A short write ends within a page only when it is about to fail.
    if (n <= 0 || static_cast<uint64_t>(n) % kPageSize != 0) {
      return errno_error(n < 0 ? errno : EIO,
                         "cannot write zeros to '" + file_->member(place.file).path() + "'");
    }
    at += n;
    length -= static_cast<uint64_t>(n);
  }
  return {};
}

Result<void> DirectSpace::release(uint64_t offset, uint64_t length) const {
  const ImageFile::Place place = file_->place(offset);
  while (fallocate(fds_[place.file], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                   static_cast<off_t>(place.offset), static_cast<off_t>(length)) != 0) {
    if (errno == EINTR) continue;
    return errno_error(errno, "cannot release space of '" + file_->member(place.file).path() + "'");
  }
  return {};
}

}  // namespace pcow
