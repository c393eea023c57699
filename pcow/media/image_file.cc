// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/media/image_file.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace pcow {

ImageFile::ImageFile(File file) { files_.push_back(std::move(file)); }

void ImageFile::add_members(std::vector<File> members, uint64_t unit_windows) {
  for (File& member : members) files_.push_back(std::move(member));
  unit_ = unit_windows * kWindowSize;
}

ImageFile::Place ImageFile::place(uint64_t offset) const {
  if (files_.size() == 1) return {0, offset, std::numeric_limits<uint64_t>::max()};
  // What lies behind the headers is behind the end of all files: reading fails there.
  if (offset >= kHeaders && (offset - kHeaders) / kWindowSize < files_.size()) {
    const uint64_t inside = offset % kWindowSize;
    return {static_cast<uint32_t>((offset - kHeaders) / kWindowSize), inside, kWindowSize - inside};
  }
  const auto file = static_cast<uint32_t>(offset / unit_ % files_.size());
  return {file, header_length(file) + bytes_below(file, offset), unit_ - offset % unit_};
}

uint64_t ImageFile::bytes_below(uint32_t index, uint64_t offset) const {
  if (files_.size() == 1) return offset;
  const uint64_t round = unit_ * files_.size();
  const uint64_t before = index * unit_;
  const uint64_t rest = offset % round;
  return offset / round * unit_ + std::min(unit_, rest - std::min(rest, before));
}

// Whole segments, so that each can be mapped as one.
uint64_t ImageFile::length_for(uint32_t index, uint64_t size) const {
  return files_.size() == 1
             ? size
             : round_up(header_length(index) + bytes_below(index, size), kSegmentSize);
}

Result<void> ImageFile::for_each_file(uint64_t offset, uint64_t length,
                                      const RangeVisitor& visit) const {
  for (uint32_t index = 0; index < count(); ++index) {
    const uint64_t first = bytes_below(index, offset);
    const uint64_t bytes = bytes_below(index, offset + length) - first;
    if (bytes > 0) PCOW_TRY(visit(files_[index], header_length(index) + first, bytes));
  }
  return {};
}

Result<uint64_t> ImageFile::size() const {
  if (files_.size() == 1) return files_.front().size();
  uint64_t segments = std::numeric_limits<uint64_t>::max();
  for (uint32_t index = 0; index < count(); ++index) {
    PCOW_TRY_ASSIGN(const uint64_t length, files_[index].size());
    const uint64_t data = length - std::min(length, header_length(index));
    segments = std::min(segments, data / (kSegmentSize / files_.size()));
  }
  return segments * kSegmentSize;
}

Result<bool> ImageFile::reaches_behind(uint64_t offset) const {
  for (uint32_t index = 0; index < count(); ++index) {
    PCOW_TRY_ASSIGN(const uint64_t length, files_[index].size());
    if (length > header_length(index) + bytes_below(index, offset)) return true;
  }
  return false;
}

Result<void> ImageFile::check_holds(uint64_t size) const {
  for (uint32_t index = 0; index < count(); ++index) {
    PCOW_TRY_ASSIGN(const uint64_t length, files_[index].size());
    const uint64_t needed = header_length(index) + bytes_below(index, size);
    if (length >= needed) continue;
    return make_error(Code::kCorrupt, "'" + files_[index].path() +
                                          "' is damaged: it is truncated: it has " +
                                          std::to_string(length) + " bytes instead of " +
                                          std::to_string(length_for(index, size)) +
                                          "; see 'pcow-img check', restore the file from a copy");
  }
  return {};
}

Result<void> ImageFile::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const Place at = place(offset);
    const size_t step = std::min<uint64_t>(out.size(), at.length);
    PCOW_TRY(files_[at.file].read(at.offset, out.first(step)));
    offset += step;
    out = out.subspan(step);
  }
  return {};
}

Result<void> ImageFile::write(uint64_t offset, std::span<const iovec> parts) const {
  if (files_.size() == 1) return files_.front().write(offset, parts);
  std::array<iovec, kPartsAtOnce> here;  // of the parts, what goes on in one file
  size_t part = 0;
  size_t done = 0;  // of that part
  while (part < parts.size()) {
    const Place at = place(offset);
    size_t count = 0;
    uint64_t length = 0;
    while (part < parts.size() && length < at.length && count < here.size()) {
      const size_t step = std::min<uint64_t>(parts[part].iov_len - done, at.length - length);
      here.at(count++) = {static_cast<std::byte*>(parts[part].iov_base) + done, step};
      length += step;
      done += step;
      if (done < parts[part].iov_len) continue;
      ++part;
      done = 0;
    }
    PCOW_TRY(files_[at.file].write(at.offset, std::span(here).first(count)));
    offset += length;
  }
  return {};
}

Result<uint64_t> ImageFile::disk_bytes() const {
  uint64_t bytes = 0;
  for (const File& file : files_) {
    PCOW_TRY_ASSIGN(const uint64_t here, file.disk_bytes());
    bytes += here;
  }
  return bytes;
}

Result<uint64_t> ImageFile::find_data(uint64_t offset, uint64_t end) const {
  while (offset < end) {
    const Place at = place(offset);
    const uint64_t length = std::min(at.length, end - offset);
    PCOW_TRY_ASSIGN(const uint64_t found, files_[at.file].find_data(at.offset, at.offset + length));
    offset += found - at.offset;
    if (found < at.offset + length) break;
  }
  return offset;
}

Result<void> ImageFile::extend(uint64_t size) const {
  for (uint32_t index = 0; index < count(); ++index) {
    PCOW_TRY(files_[index].extend(length_for(index, size)));
  }
  return {};
}

Result<void> ImageFile::try_extend(uint64_t size) const {
  std::vector<uint64_t> before;
  for (const File& file : files_) {
    PCOW_TRY_ASSIGN(const uint64_t length, file.size());
    before.push_back(length);
  }
  Result<void> result = extend(size);
  for (uint32_t index = 0; index < count(); ++index) {
    Result<void> taken_back = files_[index].set_size(before[index]);
    if (result) result = std::move(taken_back);
  }
  return result;
}

Result<void> ImageFile::reserve(uint64_t offset, uint64_t length) const {
  return for_each_file(offset, length, [](const File& file, uint64_t from, uint64_t bytes) {
    return file.reserve(from, bytes);
  });
}

Result<void> ImageFile::punch(uint64_t offset, uint64_t length) const {
  return for_each_file(offset, length, [](const File& file, uint64_t from, uint64_t bytes) {
    return file.punch(from, bytes);
  });
}

Result<void> ImageFile::sync() const {
  for (const File& file : files_) {
    if (files_.size() == 1 || file.sync_needed()) PCOW_TRY(file.sync());
  }
  return {};
}

bool ImageFile::sync_needed() const {
  return std::any_of(files_.begin(), files_.end(),
                     [](const File& file) { return file.sync_needed(); });
}

bool ImageFile::sync_failed() const {
  return std::any_of(files_.begin(), files_.end(),
                     [](const File& file) { return file.sync_failed(); });
}

void ImageFile::unlock() const {
  for (const File& file : files_) file.unlock();
}

}  // namespace pcow
