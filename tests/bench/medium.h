// SPDX-License-Identifier: BSD-3-Clause
//
// Where the benchmarks put their files, and the plain mappings they compare with.
#pragma once

#include <pcow/image.h>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "tiering/address_space.h"

namespace bench {

// Benchmarks are a program: errors end it with a message.
template <typename T>
T must(pcow::Result<T> result);
[[noreturn]] void fail(const std::string& message);
[[noreturn]] void fail_errno(const std::string& what);

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) fail(result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

// A directory of its own under a given one, removed at the end.
class WorkDirectory {
 public:
  explicit WorkDirectory(const std::string& parent);
  ~WorkDirectory();
  WorkDirectory(const WorkDirectory&) = delete;
  WorkDirectory& operator=(const WorkDirectory&) = delete;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// A tmpfs with 2 MiB pages, in a mount namespace of this process: nobody else sees it.
class HugeTmpfs {
 public:
  // Null, with the reason in `why_not`, where that is not permitted.
  static std::unique_ptr<HugeTmpfs> mount(const WorkDirectory& parent, std::string& why_not);
  ~HugeTmpfs();
  HugeTmpfs(const HugeTmpfs&) = delete;
  HugeTmpfs& operator=(const HugeTmpfs&) = delete;
  const std::string& path() const { return path_; }

 private:
  explicit HugeTmpfs(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// As a raw memory backend maps its file: the whole file, at an aligned address, then MADV_HUGEPAGE
// and MADV_DONTFORK as the hypervisor does.
tiering::AddressSpace map_raw(const std::string& path, uint64_t size, bool shared);
// Anonymous memory of 4 KiB pages.
tiering::AddressSpace map_anonymous(uint64_t size);

// A raw file, as other backends use it.
class RawFile {
 public:
  RawFile(std::string path, uint64_t size);
  ~RawFile();
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  const std::string& path() const { return path_; }
  // Stores pages that are not zero.
  void fill(uint64_t offset, uint64_t length) const;
  // Gives back space; private copies of the pages stay.
  void punch(uint64_t offset, uint64_t length) const;

 private:
  std::string path_;
  int fd_;
};

// Fills a range of an image with pages that are not zero.
void fill_image(pcow::Image& image, uint64_t offset, uint64_t length);

// How much of a range is mapped with 2 MiB entries, from /proc/self/smaps.
uint64_t huge_mapped_bytes(const std::byte* base, uint64_t size);
// MemAvailable of /proc/meminfo.
uint64_t available_memory();
// Resident set of this process, and its peak, in bytes.
uint64_t resident_bytes();
uint64_t peak_resident_bytes();

}  // namespace bench
