// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/kernel/vma_list.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <string_view>

namespace tiering::kernel {
namespace {

constexpr uint64_t kDefaultMaxMapCount = 65530;

class Descriptor {
 public:
  explicit Descriptor(const char* path) : fd_(open(path, O_RDONLY | O_CLOEXEC)) {}
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

pcow::Result<std::string> read_whole(const char* path) {
  const Descriptor file(path);
  if (file.get() < 0) return pcow::errno_error(errno, "cannot open '" + std::string(path) + "'");
  std::string text;
  constexpr size_t kStep = size_t{1} << 16;
  for (;;) {
    const size_t used = text.size();
    text.resize(used + kStep);
    const ssize_t got = read(file.get(), text.data() + used, kStep);
    if (got < 0 && errno == EINTR) {
      text.resize(used);
      continue;
    }
    const int error = errno;
    text.resize(used + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got > 0) continue;
    if (got < 0) return pcow::errno_error(error, "cannot read '" + std::string(path) + "'");
    return text;
  }
}

// "7f0000000000-7f0000200000 rw-p …"
bool parse_range(std::string_view line, Mapping& out) {
  const char* end = line.data() + line.size();
  const auto first = std::from_chars(line.data(), end, out.start, 16);
  if (first.ec != std::errc() || first.ptr == end || *first.ptr != '-') return false;
  return std::from_chars(first.ptr + 1, end, out.end, 16).ec == std::errc();
}

}  // namespace

pcow::Result<std::vector<Mapping>> mappings_in(uint64_t start, uint64_t end) {
  PCOW_TRY_ASSIGN(const std::string text, read_whole("/proc/self/maps"));
  std::vector<Mapping> result;
  std::string_view rest = text;
  while (!rest.empty()) {
    const size_t newline = std::min(rest.find('\n'), rest.size() - 1);
    Mapping mapping;
    if (parse_range(rest.substr(0, newline), mapping) && mapping.end > start &&
        mapping.start < end) {
      result.push_back({std::max(mapping.start, start), std::min(mapping.end, end)});
    }
    rest.remove_prefix(newline + 1);
  }
  return result;
}

uint64_t max_map_count() {
  const auto text = read_whole("/proc/sys/vm/max_map_count");
  uint64_t value = 0;
  if (!text) return kDefaultMaxMapCount;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), value);
  return parsed.ec == std::errc() ? value : kDefaultMaxMapCount;
}

}  // namespace tiering::kernel
