// SPDX-License-Identifier: BSD-3-Clause
#include "tests/bench/medium.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <pcow/units.h>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace bench {
namespace {

constexpr uint64_t kPagesPerFill = 4096;

// Pages that differ from each other and are never zero.
const std::vector<std::byte>& filler() {
  static const std::vector<std::byte> kBytes = [] {
    std::vector<std::byte> bytes(kPagesPerFill * pcow::kPageSize);
    for (uint64_t at = 0; at < bytes.size(); at += sizeof at) {
      const uint64_t word = (at + 1) * 0x9e3779b97f4a7c15;
      std::memcpy(bytes.data() + at, &word, sizeof word);
    }
    return bytes;
  }();
  return kBytes;
}

// The first number after `name` in a "Name:   123 kB" file, in bytes.
std::optional<uint64_t> kilobytes(std::string_view line, std::string_view name) {
  if (!line.starts_with(name)) return std::nullopt;
  const size_t digits = line.find_first_of("0123456789", name.size());
  if (digits == std::string_view::npos) return std::nullopt;
  uint64_t value = 0;
  std::from_chars(line.data() + digits, line.data() + line.size(), value);
  return value * pcow::kKiB;
}

uint64_t field(const char* path, std::string_view name) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (const auto value = kilobytes(line, name)) return *value;
  }
  fail(std::string(path) + " has no field " + std::string(name));
}

int open_file(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, 0600);
  if (fd < 0) fail_errno("cannot open '" + path + "'");
  return fd;
}

}  // namespace

void fail(const std::string& message) { throw std::runtime_error(message); }
void fail_errno(const std::string& what) { fail(pcow::errno_error(errno, what).message); }

WorkDirectory::WorkDirectory(const std::string& parent) : path_(parent + "/tierbench-XXXXXX") {
  if (mkdtemp(path_.data()) == nullptr) fail_errno("cannot make a directory in '" + parent + "'");
}

WorkDirectory::~WorkDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::unique_ptr<HugeTmpfs> HugeTmpfs::mount(const WorkDirectory& parent, std::string& why_not) {
  const std::string path = parent.file("huge");
  std::filesystem::create_directory(path);
  // "/" need not be a mount point in a chroot; then nothing is shared with it either.
  if (unshare(CLONE_NEWNS) != 0 ||
      (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 && errno != EINVAL) ||
      ::mount("tmpfs", path.c_str(), "tmpfs", 0, "huge=always") != 0) {
    why_not = std::string("no tmpfs with 2 MiB pages: ") + std::strerror(errno);
    return nullptr;
  }
  return std::unique_ptr<HugeTmpfs>(new HugeTmpfs(path));
}

HugeTmpfs::~HugeTmpfs() { umount2(path_.c_str(), MNT_DETACH); }

tiering::AddressSpace map_raw(const std::string& path, uint64_t size, bool shared) {
  const int fd = open_file(path, O_RDWR);
  tiering::AddressSpace space = must(tiering::AddressSpace::map(size, pcow::kGiB));
  void* base = mmap(space.base(), size, PROT_READ | PROT_WRITE,
                    MAP_FIXED | MAP_NORESERVE | (shared ? MAP_SHARED : MAP_PRIVATE), fd, 0);
  close(fd);
  if (base == MAP_FAILED) fail_errno("cannot map '" + path + "'");
  madvise(base, size, MADV_HUGEPAGE);
  madvise(base, size, MADV_DONTFORK);
  return space;
}

tiering::AddressSpace map_anonymous(uint64_t size) {
  tiering::AddressSpace space = must(tiering::AddressSpace::map(size, pcow::kGiB));
  madvise(space.base(), size, MADV_NOHUGEPAGE);
  return space;
}

RawFile::RawFile(std::string path, uint64_t size)
    : path_(std::move(path)), fd_(open_file(path_, O_RDWR | O_CREAT | O_TRUNC)) {
  if (ftruncate(fd_, static_cast<off_t>(size)) != 0) fail_errno("cannot size '" + path_ + "'");
}

RawFile::~RawFile() { close(fd_); }

void RawFile::fill(uint64_t offset, uint64_t length) const {
  const std::vector<std::byte>& bytes = filler();
  for (const uint64_t end = offset + length; offset < end;) {
    const uint64_t step = std::min<uint64_t>(bytes.size(), end - offset);
    const ssize_t wrote = pwrite(fd_, bytes.data(), step, static_cast<off_t>(offset));
    if (wrote <= 0) fail_errno("cannot fill '" + path_ + "'");
    offset += static_cast<uint64_t>(wrote);
  }
}

void RawFile::punch(uint64_t offset, uint64_t length) const {
  if (fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                static_cast<off_t>(length)) != 0) {
    fail_errno("cannot punch '" + path_ + "'");
  }
}

void fill_image(pcow::Image& image, uint64_t offset, uint64_t length) {
  std::vector<pcow::PageWrite> batch;
  batch.reserve(kPagesPerFill);
  for (const uint64_t end = offset + length; offset < end; offset += pcow::kPageSize) {
    const std::byte* data = filler().data() + batch.size() * pcow::kPageSize;
    batch.push_back({pcow::PageIndex(offset / pcow::kPageSize), data});
    if (batch.size() < kPagesPerFill && offset + pcow::kPageSize < end) continue;
    must(image.write_pages(batch));
    batch.clear();
  }
}

uint64_t huge_mapped_bytes(const std::byte* base, uint64_t size) {
  const auto start = reinterpret_cast<uintptr_t>(base);
  std::ifstream in("/proc/self/smaps");
  bool inside = false;
  uint64_t bytes = 0;
  for (std::string line; std::getline(in, line);) {
    uint64_t address = 0;
    const auto parsed = std::from_chars(line.data(), line.data() + line.size(), address, 16);
    if (parsed.ec == std::errc() && parsed.ptr != line.data() + line.size() && *parsed.ptr == '-') {
      inside = address >= start && address < start + size;
      continue;
    }
    if (!inside) continue;
    for (const char* name : {"AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:"}) {
      bytes += kilobytes(line, name).value_or(0);
    }
  }
  return bytes;
}

uint64_t available_memory() { return field("/proc/meminfo", "MemAvailable:"); }
uint64_t resident_bytes() { return field("/proc/self/status", "VmRSS:"); }
uint64_t peak_resident_bytes() { return field("/proc/self/status", "VmHWM:"); }

}  // namespace bench
