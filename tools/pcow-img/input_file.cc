// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/input_file.h"

#include <fcntl.h>
#include <pcow/status.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tools/common/failure.h"

namespace pcow_img {

InputFile::InputFile(const std::string& path) : path_(path) {
  // O_NONBLOCK: a FIFO must not hang the open.
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) throw tools::Failure(pcow::errno_error(errno, "cannot open '" + path + "'").message);
  struct stat st = {};
  if (fstat(fd_, &st) != 0) {
    const int error = errno;
    close(fd_);
    throw tools::Failure(pcow::errno_error(error, "cannot stat '" + path + "'").message);
  }
  const bool known = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
  const off_t end = known ? lseek(fd_, 0, SEEK_END) : -1;
  if (end < 0) {
    close(fd_);
    throw tools::Failure("cannot open '" + path +
                         "': neither a regular file nor a block device; what comes through a pipe "
                         "is made a file by 'pcow-img convert -f raw - FILE'");
  }
  size_ = static_cast<uint64_t>(end);
}

InputFile::InputFile(InputFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(other.fd_), size_(other.size_) {
  other.fd_ = -1;
}

InputFile::~InputFile() {
  if (fd_ >= 0) close(fd_);
}

void InputFile::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const std::string what = "cannot read '" + path_ + "' at offset " + std::to_string(offset);
      throw tools::Failure(pcow::errno_error(errno, what).message);
    }
    if (n == 0) {
      throw tools::Failure("'" + path_ + "' ends at offset " + std::to_string(offset) +
                           ", before its size of " + std::to_string(size_) +
                           " bytes: something else is shortening it");
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
}

}  // namespace pcow_img
