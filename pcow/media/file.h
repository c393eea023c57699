// SPDX-License-Identifier: BSD-3-Clause
//
// A regular file that holds image space, or a part of it: owning descriptor, lock, and the
// space-management calls. The one place where the engine meets open(2), flock(2) and fallocate(2).
#pragma once

#include <sys/uio.h>

#include <pcow/status.h>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace pcow {

class File {
 public:
  enum class Mode { kRead, kReadWrite, kCreate };  // kCreate fails when the path exists

  static Result<File> open(const std::string& path, Mode mode);

  // The same file, and the same lock: that lasts as long as either.
  Result<File> duplicate() const;

  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File();

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

  // Takes a shared or exclusive lock (flock(2), dropped with the descriptor). kBusy names the
  // process that holds it.
  Result<void> lock(bool exclusive) const;
  void unlock() const;

  Result<uint64_t> size() const;
  Result<uint64_t> disk_bytes() const;  // st_blocks
  bool on_tmpfs() const;
  bool on_dax() const;  // its pages are the medium's, not of the page cache

  // The changes of the file itself that the calls below make are durable after sync().
  Result<void> extend(uint64_t size) const;  // never shrinks
  Result<void> set_size(uint64_t size) const;
  // Backs [offset, offset + length) with space; holes in it become zeros. kNoSpace: nothing kept.
  Result<void> reserve(uint64_t offset, uint64_t length) const;
  // Makes [offset, offset + length) a hole that reads as zeros.
  Result<void> punch(uint64_t offset, uint64_t length) const;
  // The first offset in [offset, end) that is not in a hole, or `end`.
  Result<uint64_t> find_data(uint64_t offset, uint64_t end) const;
  // Reads out.size() bytes; a range past the end of the file is kCorrupt (it was truncated).
  Result<void> read(uint64_t offset, std::span<std::byte> out) const;
  // Writes `parts` one after the other from `offset` on, all of it or an error.
  Result<void> write(uint64_t offset, std::span<const iovec> parts) const;
  // fdatasync(2): what was written, and length, space and holes. When it has failed once it fails
  // for good: the kernel may have forgotten what it could not write, and a later success of the
  // system call would say nothing of that.
  Result<void> sync() const;
  Result<void> sync_with_times() const;  // fsync(2)
  bool sync_failed() const { return sync_errno_ != 0; }
  // Whether something written, a length or a hole is not durable yet. Space need not be: a store
  // through a mapping that libpmem2 calls persistent makes the space of its page durable
  // (MAP_SYNC), and without a store reserved space is zeros, like a hole.
  bool sync_needed() const { return sync_needed_; }

 private:
  File(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  Result<void> sync_by(int (*call)(int)) const;
  int fd_ = -1;
  std::string path_;
  mutable bool sync_needed_ = true;  // also of what an earlier process left
  mutable int sync_errno_ = 0;       // why a sync failed
};

// A name in the directory of `path` that no file has, whatever the user keeps there. It tells whose
// it is, and is no longer than a file's name may be.
std::string temporary_name_beside(const std::string& path);

// Gives a file another name, in the same file system. kExists: there is one of that name, and
// stays.
Result<void> rename_to_new_name(const std::string& from, const std::string& to);

// Makes the directory entry of `path` durable.
Result<void> sync_parent_directory(const std::string& path);

}  // namespace pcow
