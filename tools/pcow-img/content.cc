// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/content.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <string_view>

#include "tools/common/failure.h"

namespace pcow_img {
namespace {

struct Signature {
  uint64_t offset;
  std::string_view bytes;
  const char* format;
};

using std::string_view_literals::operator""sv;

constexpr std::array kSignatures = {
    Signature{0, "PCOWIMG\n"sv, "pcow"},
    Signature{pcow::kMiB, "PCOWIMG\n"sv, "pcow"},  // the second copy, when the first is damaged
    Signature{12, "NBJL"sv, "nbjl"},
    Signature{0, "QFI\xfb"sv, "qcow2"},
    Signature{0, "QED\0"sv, "qed"},
    Signature{0, "KDMV"sv, "vmdk"},
    Signature{0, "# Disk DescriptorFile"sv, "vmdk"},
    Signature{0, "vhdxfile"sv, "vhdx"},
    Signature{0, "conectix"sv, "vpc"},
    Signature{64, "\x7f\x10\xda\xbe"sv, "vdi"},
};

// As much as there is; negative: errno.
ssize_t read_at(int fd, uint64_t offset, std::span<char> out) {
  size_t filled = 0;
  while (filled < out.size()) {
    const ssize_t n =
        pread(fd, &out[filled], out.size() - filled, static_cast<off_t>(offset + filled));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    filled += static_cast<size_t>(n);
  }
  return static_cast<ssize_t>(filled);
}

// What cannot be read at all is left to whoever opens it next: they know what to say. But a medium
// that fails must not make an image look like raw memory.
std::string probe(const std::string& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw tools::Failure(pcow::errno_error(errno, "cannot open '" + file + "'").message);
  std::string format = "raw";
  int error = 0;
  for (const Signature& signature : kSignatures) {
    std::array<char, 32> bytes{};
    const size_t length = signature.bytes.size();
    const ssize_t got = read_at(fd, signature.offset, std::span(bytes).first(length));
    if (got < 0) error = errno;
    if (got == static_cast<ssize_t>(length) &&
        std::string_view(bytes.data(), length) == signature.bytes) {
      format = signature.format;
      error = 0;
      break;
    }
  }
  close(fd);
  // A directory, or a pipe.
  if (error == 0 || error == EISDIR || error == ESPIPE) return format;
  throw tools::Failure(pcow::errno_error(error, "cannot read '" + file + "'").message);
}

}  // namespace

Extent Content::extent(uint64_t at) const {
  Extent found = extent_impl(at);
  const uint64_t end = found.start + found.length;
  const uint64_t whole_pages_end = end / pcow::kPageSize * pcow::kPageSize;
  if (end == size_) {
    found.length = padded_size() - at;
  } else if (found.data || whole_pages_end == at) {
    // A page of which a part is stored is stored.
    found = {at, pcow::round_up(end, pcow::kPageSize) - at, true};
  } else {
    found.length = whole_pages_end - at;
  }
  return found;
}

void Content::read(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t inside = std::min<uint64_t>(out.size(), size_ - std::min(offset, size_));
  if (inside > 0) read_impl(offset, out.first(inside));
  const std::span<std::byte> beyond = out.subspan(inside);
  std::fill(beyond.begin(), beyond.end(), std::byte{0});
}

std::unique_ptr<Content> open_content(const std::string& file, const std::string& format,
                                      const Consent& consent) {
  const std::string found = format.empty() ? probe(file) : format;
  if (found == "pcow") return open_pcow_content(file, consent);
  if (found == "nbjl") return open_nbjl_content(file);
  if (found == "raw") return open_raw_content(file);
  if (format.empty()) {
    throw tools::Failure("'" + file + "' looks like a " + found +
                         " image\nUse -f to name its format, or -f raw to take its bytes as they "
                         "are");
  }
  throw tools::Failure("unknown file format '" + format +
                       "': this command reads 'pcow', 'raw' and 'nbjl'");
}

}  // namespace pcow_img
