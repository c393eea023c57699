// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/read_image.h"

#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "pcow/base/crc32c.h"
#include "pcow/base/zero.h"
#include "tests/fuzz/fuzz.h"

namespace fuzz {
namespace {

using pcow::kGiB;
using pcow::kPageSize;
using pcow::MapExtent;

// Of the guest memory, what the templates have data in: a look at all of it takes too long.
constexpr uint64_t kPart = 4 * pcow::kChunkSize;
constexpr uint64_t kMapMax = 16 * kPageSize;  // of each run of data: reading a hole allocates it

uint64_t file_size(const pcow::Image& image, uint32_t file) {
  require(file < image.file_count(), "a file that an image names is one of its own");
  struct stat st = {};
  require(fstat(image.file(file).fd, &st) == 0, "the descriptor of an image is open");
  return static_cast<uint64_t>(st.st_size);
}

// The only error that an image which could be opened may have is damage in its tables.
template <typename T>
bool damaged(const pcow::Result<T>& result) {
  if (result) return false;
  require(result.error().code == pcow::Code::kCorrupt,
          "only damage makes reading fail: " + result.error().message);
  return true;
}

// Where data begins in each file: behind its part of the first segment.
uint64_t data_start(const pcow::Image& image) { return pcow::kSegmentSize / image.file_count(); }

bool is_inside(const pcow::Image& image, const pcow::FilePlace& place, uint64_t length) {
  const uint64_t size = file_size(image, place.file);
  return place.offset >= data_start(image) && length <= size && place.offset <= size - length;
}

// What a region would map lies inside the files.
bool check_layout(const pcow::Image& image, uint64_t start, uint64_t end) {
  for (uint64_t gib = start / kGiB; gib < (end + kGiB - 1) / kGiB; ++gib) {
    const auto layout = image.layout(pcow::GibIndex(gib));
    if (damaged(layout)) return false;
    for (const pcow::GibLayout::Chunk& chunk : layout->chunks) {
      if (chunk.kind != pcow::GibLayout::Kind::kWindow) continue;
      require(chunk.window.offset % pcow::kWindowSize == 0 &&
                  is_inside(image, chunk.window, pcow::kWindowSize),
              "a window is a whole one inside its file");
    }
    if (layout->segment.empty()) continue;
    require(image.file_count() > 1 || layout->segment.size() == 1, "one file has one part");
    const uint64_t length = pcow::kSegmentSize / layout->segment.size();
    const uint64_t align = image.file_count() > 1 ? pcow::kWindowSize : pcow::kSegmentSize;
    for (const pcow::FilePlace& part : layout->segment) {
      require(part.offset % align == 0 && is_inside(image, part, length),
              "a segment lies wholly inside the files");
    }
  }
  return true;
}

void compare_mapping(const pcow::Image& image, const MapExtent& run,
                     std::span<const std::byte> bytes) {
  void* const mapped = mmap(nullptr, bytes.size(), PROT_READ, MAP_PRIVATE, image.file(run.file).fd,
                            static_cast<off_t>(*run.file_offset));
  require(mapped != MAP_FAILED, "a run of data can be mapped");
  require(std::memcmp(mapped, bytes.data(), bytes.size()) == 0,
          "a mapping holds what read() returns");
  munmap(mapped, bytes.size());
}

bool read_run(const pcow::Image& image, const MapExtent& run, bool mappable, uint32_t* digest) {
  std::vector<std::byte> bytes(run.length);
  if (damaged(image.read(run.start, bytes))) return false;
  if (mappable) compare_mapping(image, run, std::span(bytes).first(std::min(run.length, kMapMax)));
  for (uint64_t at = 0; at < run.length; at += kPageSize) {
    const auto page = std::span<const std::byte>(bytes).subspan(at, kPageSize);
    if (pcow::is_zero(page)) continue;  // as if nobody owned it
    const uint64_t place = run.start + at;
    *digest = pcow::crc32c(std::as_bytes(std::span(&place, 1)), *digest);
    *digest = pcow::crc32c(page, *digest);
  }
  return true;
}

bool read_part(const pcow::Image& image, uint64_t start, uint64_t end, bool mappable,
               uint32_t* digest) {
  if (!check_layout(image, start, end)) return false;
  std::vector<MapExtent> runs;
  uint64_t at = start;
  const auto mapped = image.map(start, end - start, [&](const MapExtent& run) {
    require(run.start == at && run.length > 0 && run.length <= end - at,
            "runs follow each other inside the range");
    require(run.data == run.file_offset.has_value(), "data has a place in the file");
    at += run.length;
    if (!run.data) return;
    require(*run.file_offset % kPageSize == 0 &&
                is_inside(image, {run.file, *run.file_offset}, run.length),
            "data lies in windows inside its file");
    runs.push_back(run);
  });
  if (damaged(mapped)) return false;
  require(at == end, "runs cover the range");
  return std::all_of(runs.begin(), runs.end(),
                     [&](const MapExtent& run) { return read_run(image, run, mappable, digest); });
}

uint32_t read_view(const std::string& path, const std::string& snapshot, Views* others) {
  pcow::OpenOptions options;
  options.replay_in_memory = true;
  if (!snapshot.empty()) options.snapshot = snapshot;
  const auto image = pcow::Image::open(path, options);
  require(image.has_value(), image ? "" : "a sound image opens: " + image.error().message);
  const std::optional<uint32_t> content = read_image(**image);
  require(content.has_value(), "a sound image has no damaged tables");
  if (others == nullptr) return *content;
  const auto list = (*image)->snapshots();
  require(list.has_value(), "a sound image lists its snapshots");
  for (const pcow::SnapshotInfo& info : *list) (*others)[info.name] = 0;
  return *content;
}

}  // namespace

std::optional<uint32_t> read_image(const pcow::Image& image) {
  const uint64_t size = image.virtual_size();
  require(size >= pcow::kMinVirtualSize && size <= pcow::kMaxVirtualSize &&
              size % pcow::kChunkSize == 0,
          "an image that opens has a possible size");
  require(image.info().virtual_size == size, "info() tells the size");
  const bool mappable = image.info().clean || image.info().recovered;
  uint32_t digest = pcow::crc32c(std::as_bytes(std::span(&size, 1)));
  const uint64_t last_start = (size - 1) / pcow::kChunkSize * pcow::kChunkSize;
  for (const uint64_t start : {uint64_t{0}, kGiB, last_start}) {
    if (start >= size) continue;
    const uint64_t end = std::min(start + kPart, size);
    if (!read_part(image, start, end, mappable, &digest)) return std::nullopt;
  }
  return digest;
}

Views read_views(const std::string& path) {
  Views views;
  const uint32_t content = read_view(path, "", &views);
  for (auto& [name, view] : views) view = read_view(path, name, nullptr);
  views[""] = content;
  return views;
}

}  // namespace fuzz
