// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "pcow/format/block.h"

namespace pcow {
namespace {

std::string quoted(const std::string& path) { return "'" + path + "'"; }

// Who holds a flock on the file: "qemu-system-x86 (process 1234)". Reads /proc/locks, whose lines
// are "1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF" (proc_locks(5)).
std::optional<std::string> lock_holder(int fd) {
  struct stat st = {};
  if (fstat(fd, &st) != 0) return std::nullopt;
  std::array<char, 64> wanted{};
  std::snprintf(wanted.data(), wanted.size(), "%02x:%02x:%" PRIu64, major(st.st_dev),
                minor(st.st_dev), static_cast<uint64_t>(st.st_ino));
  std::ifstream locks("/proc/locks");
  std::string line;
  while (std::getline(locks, line)) {
    std::istringstream fields(line);
    std::string number, kind, advisory, type, inode;
    long pid = 0;
    fields >> number >> kind;
    if (kind == "->") continue;  // a waiter
    fields >> advisory >> type >> pid >> inode;
    if (kind != "FLOCK" || inode != wanted.data() || pid <= 0) continue;
    std::ifstream comm("/proc/" + std::to_string(pid) + "/comm");
    std::string name;
    std::getline(comm, name);
    return (name.empty() ? "a process" : name) + " (process " + std::to_string(pid) + ")";
  }
  return std::nullopt;
}

Error not_regular(const std::string& path) {
  return make_error(Code::kInvalid, "cannot open " + quoted(path) +
                                        ": not a regular file; name an image file (a device "
                                        "needs a file system on it, mounted with dax)");
}

}  // namespace

Result<File> File::open(const std::string& path, Mode mode) {
  struct stat st = {};
  // Opening a device, or the other end of a FIFO, may do something: it is looked at first.
  if (mode != Mode::kCreate && ::stat(path.c_str(), &st) == 0 && !S_ISREG(st.st_mode) &&
      !S_ISDIR(st.st_mode)) {
    return not_regular(path);
  }
  int flags = O_CLOEXEC | O_NONBLOCK;  // O_NONBLOCK: a FIFO must not hang the open
  if (mode == Mode::kRead) flags |= O_RDONLY;
  if (mode == Mode::kReadWrite) flags |= O_RDWR;
  if (mode == Mode::kCreate) flags |= O_RDWR | O_CREAT | O_EXCL;
  std::string name = path;  // before there is a file that want of memory could leave behind
  const int fd = ::open(path.c_str(), flags, 0600);
  if (fd < 0) {
    const int error = errno;
    const char* verb = mode == Mode::kCreate ? "cannot create " : "cannot open ";
    if (error == EISDIR) {
      return make_error(Code::kInvalid,
                        verb + quoted(path) + ": it is a directory; name the image file");
    }
    return errno_error(error, verb + quoted(path));
  }
  File file(fd, std::move(name));
  if (fstat(fd, &st) != 0) {
    const int error = errno;
    if (mode == Mode::kCreate) ::unlink(path.c_str());
    return errno_error(error, "cannot stat " + quoted(path));
  }
  if (!S_ISREG(st.st_mode)) return not_regular(path);
  return file;
}

Result<File> File::duplicate() const {
  std::string name = path_;
  const int fd = fcntl(fd_, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return errno_error(errno, "cannot open " + quoted(path_) + " again");
  return File(fd, std::move(name));
}

File::File(File&& other) noexcept
    : fd_(other.fd_),
      path_(std::move(other.path_)),
      sync_needed_(other.sync_needed_),
      sync_errno_(other.sync_errno_) {
  other.fd_ = -1;
}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  std::swap(sync_needed_, other.sync_needed_);
  std::swap(sync_errno_, other.sync_errno_);
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

Result<void> File::lock(bool exclusive) const {
  if (flock(fd_, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB) == 0) return {};
  if (errno != EWOULDBLOCK) return errno_error(errno, "cannot lock " + quoted(path_));
  return make_error(Code::kBusy, quoted(path_) + " is in use by " +
                                     lock_holder(fd_).value_or("another process") +
                                     "; an image has one writer or any number of readers: stop "
                                     "the other user first");
}

void File::unlock() const { (void)flock(fd_, LOCK_UN); }  // a lock one holds is always given back

Result<uint64_t> File::size() const {
  struct stat st = {};
  if (fstat(fd_, &st) != 0) return errno_error(errno, "cannot stat " + quoted(path_));
  return static_cast<uint64_t>(st.st_size);
}

Result<uint64_t> File::disk_bytes() const {
  struct stat st = {};
  if (fstat(fd_, &st) != 0) return errno_error(errno, "cannot stat " + quoted(path_));
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

bool File::on_tmpfs() const {
  struct statfs fs = {};
  return fstatfs(fd_, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

bool File::on_dax() const {
  struct statx stx = {};
  return statx(fd_, "", AT_EMPTY_PATH, 0, &stx) == 0 && (stx.stx_attributes & STATX_ATTR_DAX) != 0;
}

Result<void> File::extend(uint64_t size) const {
  PCOW_TRY_ASSIGN(const uint64_t now, this->size());
  return now >= size ? Result<void>() : set_size(size);
}

Result<void> File::set_size(uint64_t size) const {
  sync_needed_ = true;
  int rc = 0;
  do {
    rc = ftruncate(fd_, static_cast<off_t>(size));
  } while (rc != 0 && errno == EINTR);
  if (rc == 0) return {};
  if (errno == EFBIG) {
    return make_error(
        Code::kNoSpace,
        "cannot extend " + quoted(path_) + " to " + std::to_string(size) +
            " bytes: the file system, or the file size limit (ulimit -f), does not "
            "allow files that long; use a smaller virtual size or another file system");
  }
  return errno_error(errno, "cannot set the size of " + quoted(path_));
}

Result<void> File::reserve(uint64_t offset, uint64_t length) const {
  while (fallocate(fd_, FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                   static_cast<off_t>(length)) != 0) {
    if (errno == EINTR) continue;
    return errno_error(errno,
                       "cannot reserve " + std::to_string(length) + " bytes in " + quoted(path_));
  }
  return {};
}

Result<void> File::punch(uint64_t offset, uint64_t length) const {
  sync_needed_ = true;
  while (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                   static_cast<off_t>(length)) != 0) {
    if (errno == EINTR) continue;
    return errno_error(errno, "cannot release space of " + quoted(path_));
  }
  return {};
}

Result<uint64_t> File::find_data(uint64_t offset, uint64_t end) const {
  const off_t data = lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno == ENXIO) return end;  // none up to the end of the file
  if (data < 0) return errno_error(errno, "cannot look for data in " + quoted(path_));
  return std::min(static_cast<uint64_t>(data), end);
}

Result<void> File::read(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t start = offset;
  while (!out.empty()) {
    const ssize_t n = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return errno_error(errno,
                         "cannot read " + quoted(path_) + " at offset " + std::to_string(offset));
    }
    if (n == 0) {
      return make_error(Code::kCorrupt, quoted(path_) + " is truncated: nothing to read at " +
                                            std::to_string(start) +
                                            "; restore the file from a copy");
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<void> File::write(uint64_t offset, std::span<const iovec> parts) const {
  constexpr size_t kPartsAtOnce = 256;
  sync_needed_ = true;
  std::array<iovec, kPartsAtOnce> batch;
  size_t written = 0;  // of the first part
  while (!parts.empty()) {
    const size_t count = std::min(parts.size(), batch.size());
    std::copy_n(parts.begin(), count, batch.begin());
    batch[0].iov_base = static_cast<std::byte*>(batch[0].iov_base) + written;
    batch[0].iov_len -= written;
    const ssize_t n =
        pwritev(fd_, batch.data(), static_cast<int>(count), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return errno_error(n < 0 ? errno : EIO,
                         "cannot write " + quoted(path_) + " at offset " + std::to_string(offset));
    }
    offset += static_cast<uint64_t>(n);
    written += static_cast<size_t>(n);
    while (!parts.empty() && written >= parts.front().iov_len) {
      written -= parts.front().iov_len;
      parts = parts.subspan(1);
    }
  }
  return {};
}

Result<void> File::sync() const { return sync_by(fdatasync); }

Result<void> File::sync_with_times() const { return sync_by(fsync); }

Result<void> File::sync_by(int (*call)(int)) const {
  while (sync_errno_ == 0 && call(fd_) != 0) {
    if (errno != EINTR) sync_errno_ = errno;
  }
  if (sync_errno_ != 0) {
    return errno_error(sync_errno_, "cannot make " + quoted(path_) + " durable");
  }
  sync_needed_ = false;
  return {};
}

std::string temporary_name_beside(const std::string& path) {
  constexpr size_t kNamePart = 200;
  const std::filesystem::path target(path);
  const std::string name = target.filename().string().substr(0, kNamePart) + "." +
                           format::uuid_text(format::new_uuid()) + ".new";
  return (target.parent_path() / name).string();
}

Result<void> rename_to_new_name(const std::string& from, const std::string& to) {
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return {};
  int error = errno;
  // Not every file system can refuse to replace; a link to what is there is refused everywhere.
  if (error == EINVAL || error == ENOSYS) {
    error = ::link(from.c_str(), to.c_str()) == 0 ? 0 : errno;
    if (error == 0) ::unlink(from.c_str());
  }
  if (error == 0) return {};
  return errno_error(error, "cannot create " + quoted(to));
}

Result<void> sync_parent_directory(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  const std::string name = parent.empty() ? "." : parent.string();
  const std::string what = "cannot make the name of " + quoted(path) + " durable: cannot ";
  const int fd = ::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno_error(errno, what + "open directory " + quoted(name));
  int rc = 0;
  do {
    rc = fsync(fd);
  } while (rc != 0 && errno == EINTR);
  const int error = errno;
  ::close(fd);
  // Some file systems have nothing to sync for a directory and say EINVAL.
  if (rc != 0 && error != EINVAL) return errno_error(error, what + "sync " + quoted(name));
  return {};
}

}  // namespace pcow
