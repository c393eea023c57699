// SPDX-License-Identifier: BSD-3-Clause
//
// The simulated medium: a file, known to the engine as kImagePath, and another one for stripe sets
// over two, whose bytes live in this process. It stands below pcow/media: sim_calls.cc and
// sim_pmem2.cc replace the system calls and the functions of libpmem2 that the engine uses (a seam
// of the linker), so that all of the engine, File, PageMedia and PmemMedia included, run as they
// are in the product.
#pragma once

#include <sys/types.h>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "tests/crash/trace.h"

namespace crash {

inline constexpr std::string_view kImageDirectory = "/simulated";
inline constexpr const char* kImagePath = "/simulated/image.pcow";
inline constexpr const char* kMemberName = "member";
inline constexpr std::string_view kMemberPath = "/simulated/member";

class SimMedium {
 public:
  static SimMedium& get();

  // Puts other files in the place; none: the paths do not exist. REQUIRES: no descriptor is open.
  void load(MediumKind kind, std::optional<SparseBytes> content);
  const SparseBytes& content() const { return *content_; }
  bool exists(uint64_t file) const { return file == 0 ? content_.has_value() : second_exists_; }
  MediumKind kind() const { return kind_; }

  // Until stopped, what happens is appended to the trace as part of `step`.
  void record(Trace* trace) { trace_ = trace; }
  void set_step(size_t step) { step_ = step; }

  // Ascends from load() on.
  uint64_t next_number() { return next_number_++; }

  // --- for the replaced calls. Descriptors from kFirstFd on are ours. A file is known by where its
  // bytes begin: 0 or kSecondFile; offsets are those of the medium, with that.
  static constexpr int kFirstFd = 1 << 20;
  int open_file(uint64_t file, bool create);
  uint64_t file_of(int fd) const { return fds_.at(fd)->file; }
  int open_directory();
  bool is_directory(int fd) const { return fds_.at(fd)->directory; }
  int duplicate(int fd);
  void close_fd(int fd) { fds_.erase(fd); }
  bool lock(int fd, int operation);  // flock(2)

  void store(uint64_t offset, std::span<const std::byte> bytes, bool flushed = true);
  void reserve(uint64_t offset, uint64_t length);
  void punch(uint64_t offset, uint64_t length);
  void resize(uint64_t file, uint64_t size);
  void drain();
  void sync(uint64_t file);

 private:
  struct OpenFile {
    bool directory = false;
    uint64_t file = 0;
    int lock = 0;  // LOCK_SH, LOCK_EX or none
  };
  Event* append(EventKind kind, uint64_t offset, uint64_t length);

  MediumKind kind_ = MediumKind::kPmem;
  std::optional<SparseBytes> content_;
  bool second_exists_ = false;
  uint64_t next_number_ = 0;
  Trace* trace_ = nullptr;
  size_t step_ = 0;
  std::map<int, std::shared_ptr<OpenFile>> fds_;  // several may be one open file, with its lock
  int next_fd_ = kFirstFd;
};

}  // namespace crash
