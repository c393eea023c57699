// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/session.h"

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "tests/fuzz/fuzz.h"

namespace fuzz {
namespace {

using pcow::kPageSize;

template <typename T>
T done(pcow::Result<T> result, const char* what) {
  require(result.has_value(), result ? "" : std::string(what) + ": " + result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

std::unique_ptr<pcow::Image> open_writable(const std::string& path) {
  pcow::OpenOptions options;
  options.access = pcow::Access::kReadWrite;
  return done(pcow::Image::open(path, options), "a sound image opens for writing");
}

// The first page and the last; what was stored is there.
void write_ends(pcow::Image& image) {
  const std::vector<std::byte> bytes(kPageSize, std::byte{0x5a});
  const uint64_t last = image.virtual_size() / kPageSize - 1;
  const std::array<pcow::PageWrite, 2> writes = {
      pcow::PageWrite{pcow::PageIndex(0), bytes.data()},
      pcow::PageWrite{pcow::PageIndex(last), bytes.data()}};
  done(image.write_pages(writes), "a sound image takes a write");
  done(image.commit(), "a sound image commits");
  std::vector<std::byte> read(kPageSize);
  for (const uint64_t page : {uint64_t{0}, last}) {
    done(image.read(page * kPageSize, read), "a sound image is read");
    require(read == bytes, "what was stored is there");
  }
}

void write(pcow::Image& image, Views& views) {
  write_ends(image);
  views.erase("");
}

void snapshot(pcow::Image& image, Views& views) {
  const std::string name = "fuzz";
  const auto result = image.create_snapshot(name);
  if (views.contains(name)) {
    require(!result && result.error().code == pcow::Code::kExists, "names are unique");
    return;
  }
  done(result, "a sound image takes a snapshot");
  views[name] = views.at("");
  write(image, views);
}

void delete_snapshot(pcow::Image& image, Views& views, const std::string& name) {
  done(image.delete_snapshot(name), "a snapshot of a sound image is deleted");
  views.erase(name);
}

void delete_first(pcow::Image& image, Views& views) {
  if (views.size() > 1) delete_snapshot(image, views, std::next(views.begin())->first);
}

void delete_all(pcow::Image& image, Views& views) {
  while (views.size() > 1) delete_snapshot(image, views, views.rbegin()->first);
}

void apply_last(pcow::Image& image, Views& views) {
  const std::string name = views.rbegin()->first;
  if (name.empty()) return;
  done(image.apply_snapshot(name), "a snapshot of a sound image is applied");
  views[""] = views.at(name);
}

void shrink_and_grow(pcow::Image& image, Views& views) {
  const uint64_t size = image.virtual_size();
  done(image.resize(pcow::kChunkSize, true), "a sound image shrinks");
  done(image.resize(size, false), "a sound image grows");
  std::vector<std::byte> page(kPageSize);
  for (uint64_t at = pcow::kChunkSize; at < std::min(size, 4 * pcow::kChunkSize); at += kPageSize) {
    done(image.read(at, page), "a resized image is read");
    require(page == std::vector<std::byte>(kPageSize), "what a shrink drops does not come back");
  }
  views.erase("");
}

}  // namespace

void write_session(const std::string& path, uint8_t choice, Views& views) {
  const auto image = open_writable(path);
  switch (choice) {
    case 0:
      write(*image, views);
      break;
    case 1:
      snapshot(*image, views);
      break;
    case 2:
      delete_first(*image, views);
      break;
    case 3:
      delete_all(*image, views);
      break;
    case 4:
      apply_last(*image, views);
      break;
    case 5:
      shrink_and_grow(*image, views);
      break;
    case 6:
      done(image->reclaim_unowned(), "what a sound image does not own is given back");
      break;
    default:  // only recovery
      break;
  }
  done(image->close(), "a sound image closes");
}

}  // namespace fuzz
