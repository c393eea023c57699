// SPDX-License-Identifier: BSD-3-Clause
#include "pcow/engine/base_image.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "pcow/base/printable.h"
#include "pcow/engine/image_impl.h"

namespace pcow {

using format::BaseReference;

namespace {

constexpr uint64_t kNsPerSecond = 1'000'000'000;
// Images that are based on each other are opened, and read, one within the other.
constexpr size_t kFilesPerChainMax = 64;

// An error about the base, for somebody who opened the image. The path comes from the image.
Error of_image(Error error, const std::string& image_path) {
  error.message = printable("cannot open the base of '" + image_path + "': " + error.message);
  return error;
}

Error changed(const std::string& path, const std::string& image_path, const std::string& how) {
  return make_error(Code::kCorrupt,
                    printable("'" + path + "', the base of '" + image_path + "', " + how +
                              " since the image was made on it: what the image shows would be "
                              "wrong; bring the base back as it was, or, if it holds the same, use "
                              "'pcow-img rebase -u'"));
}

// A regular file that is not a pcow image may be any format; the user has to say that it is raw.
Result<BaseReference> refer_raw(const std::string& path) {
  PCOW_TRY_ASSIGN(const File file, File::open(path, File::Mode::kRead));
  PCOW_TRY(file.lock(false));
  PCOW_TRY_ASSIGN(const RawState state, raw_state(file));
  if (state.size == 0) {
    return make_error(Code::kInvalid, "'" + path + "' is empty, and cannot be a base");
  }
  BaseReference reference{};
  reference.format = static_cast<uint32_t>(BaseFormat::kRaw);
  reference.generation = state.mtime_ns;
  reference.base_size = state.size;
  return reference;
}

Result<BaseReference> refer_pcow(const std::string& path) {
  OpenOptions options;
  options.base = BaseAccess::kIgnore;
  OpenFiles files;
  PCOW_TRY_ASSIGN(const std::unique_ptr<Image> image, ImageImpl::open_impl(path, options, files));
  // Its recovery would change it, and the generation with it.
  if (!image->info().clean) {
    return make_error(Code::kNeedsRecovery,
                      "'" + path +
                          "' was not closed cleanly: open it for writing once to recover it, "
                          "before images are based on it");
  }
  BaseReference reference{};
  reference.format = static_cast<uint32_t>(BaseFormat::kPcow);
  reference.uuid = static_cast<const ImageImpl&>(*image).uuid();
  reference.generation = image->info().generation;
  reference.base_size = image->virtual_size();
  return reference;
}

}  // namespace

MappedFile mapped_file(const File& file) {
  return {.fd = file.fd(), .hole_reads_allocate = file.on_tmpfs(), .dax = file.on_dax()};
}

std::vector<MappedFile> mapped_files(const ImageFile& file) {
  std::vector<MappedFile> all;
  for (uint32_t index = 0; index < file.count(); ++index) {
    all.push_back(mapped_file(file.member(index)));
  }
  return all;
}

Result<RawState> raw_state(const File& file) {
  struct stat st = {};
  if (fstat(file.fd(), &st) != 0) return errno_error(errno, "cannot stat '" + file.path() + "'");
  return RawState{static_cast<uint64_t>(st.st_size),
                  static_cast<uint64_t>(st.st_mtim.tv_sec) * kNsPerSecond +
                      static_cast<uint64_t>(st.st_mtim.tv_nsec)};
}

Result<void> note_file(const File& file, OpenFiles& files, const std::string& what_then) {
  struct stat st = {};
  if (fstat(file.fd(), &st) != 0) return errno_error(errno, "cannot stat '" + file.path() + "'");
  const std::pair<uint64_t, uint64_t> identity(st.st_dev, st.st_ino);
  if (std::find(files.begin(), files.end(), identity) != files.end()) {
    return make_error(Code::kCorrupt, "'" + file.path() + "' " + what_then);
  }
  if (files.size() == kFilesPerChainMax) {
    return make_error(Code::kUnsupported,
                      "'" + file.path() + "' is beneath " + std::to_string(files.size()) +
                          " other images, more than this version opens; make one of them "
                          "independent with 'pcow-img convert --allow-base'");
  }
  files.push_back(identity);
  return {};
}

Result<void> note_files(const ImageFile& file, OpenFiles& files) {
  for (uint32_t index = 0; index < file.count(); ++index) {
    PCOW_TRY(note_file(file.member(index), files));
  }
  return {};
}

std::string_view base_format_name(BaseFormat format) {
  return format == BaseFormat::kRaw ? "raw" : "pcow";
}

std::string base_path(const BaseReference& reference, const std::string& image_path) {
  const size_t length = std::min<size_t>(reference.path_length, reference.path.size());
  const std::filesystem::path path(std::string(reference.path.data(), length));
  return (std::filesystem::path(image_path).parent_path() / path).string();
}

BaseInfo base_info(const BaseReference& reference, const std::string& full_path) {
  const size_t length = std::min<size_t>(reference.path_length, reference.path.size());
  return {{reference.path.data(), length},
          full_path,
          static_cast<BaseFormat>(uint32_t{reference.format})};
}

std::string base_defect(const BaseReference& reference, bool present) {
  if (!present) {
    const BaseReference none{};
    return std::memcmp(&reference, &none, sizeof(none)) == 0 ? "" : "a base without its feature";
  }
  const auto format = static_cast<BaseFormat>(uint32_t{reference.format});
  const bool pcow = format == BaseFormat::kPcow;
  if (!pcow && format != BaseFormat::kRaw) return "unknown format of its base";
  const size_t length = reference.path_length;
  if (length == 0 || length >= reference.path.size()) return "impossible path of its base";
  for (size_t i = 0; i < reference.path.size(); ++i) {
    if ((i < length) != (reference.path[i] != '\0')) return "impossible path of its base";
  }
  const bool identified = reference.uuid != format::Uuid{};
  if (identified != pcow || reference.base_size == 0) return "impossible reference to its base";
  return "";
}

Result<BaseReference> BaseImage::refer(const std::string& image_path, const std::string& path,
                                       BaseFormat format) {
  BaseReference reference{};
  if (path.empty() || path.size() >= reference.path.size() ||
      path.find('\0') != std::string::npos) {
    return make_error(Code::kInvalid, "the path of a base has 1 to " +
                                          std::to_string(reference.path.size() - 1) + " bytes");
  }
  const std::string place = (std::filesystem::path(image_path).parent_path() / path).string();
  std::error_code error_code;
  if (std::filesystem::equivalent(place, image_path, error_code)) {
    return make_error(Code::kInvalid, "'" + image_path + "' cannot be its own base");
  }
  Result<BaseReference> found = format == BaseFormat::kRaw ? refer_raw(place) : refer_pcow(place);
  if (!found) {
    Error error = std::move(found).error();
    if (error.code == Code::kForeign) error.message += "; or say that the base is raw";
    return of_image(std::move(error), image_path);
  }
  reference = *found;
  reference.path_length = static_cast<uint32_t>(path.size());
  std::copy(path.begin(), path.end(), reference.path.begin());
  return reference;
}

Result<void> BaseImage::open_raw(const BaseReference& reference, const std::string& image_path,
                                 const OpenOptions& options, OpenFiles& files) {
  PCOW_TRY_ASSIGN(File file, File::open(path_, File::Mode::kRead));
  const Result<void> lock = file.lock(false);
  if (!lock && !(options.force_share && lock.error().code == Code::kBusy)) return lock.error();
  PCOW_TRY(note_file(file, files));
  PCOW_TRY_ASSIGN(const RawState state, raw_state(file));
  const bool same_time = state.mtime_ns == reference.generation || reference.next_generation != 0;
  if (state.size != reference.base_size || !same_time) {
    return changed(path_, image_path, "was changed");
  }
  raw_ = std::move(file);
  mapped_ = mapped_file(*raw_);
  return {};
}

Result<std::unique_ptr<BaseImage>> BaseImage::open(const BaseReference& reference,
                                                   const std::string& image_path,
                                                   const OpenOptions& options, OpenFiles& files) {
  std::unique_ptr<BaseImage> base(new BaseImage());
  base->path_ = base_path(reference, image_path);
  base->size_ = reference.base_size;
  base->reference_ = reference;
  if (static_cast<BaseFormat>(uint32_t{reference.format}) == BaseFormat::kRaw) {
    Result<void> opened = base->open_raw(reference, image_path, options, files);
    if (!opened) return of_image(std::move(opened).error(), image_path);
    return base;
  }
  OpenOptions base_options;
  base_options.base = options.base;
  base_options.force_share = options.force_share;
  base_options.replay_in_memory = true;
  Result<std::unique_ptr<Image>> image = ImageImpl::open_impl(base->path_, base_options, files);
  if (!image) return of_image(std::move(image).error(), image_path);
  base->image_ = *std::move(image);
  if (static_cast<const ImageImpl&>(*base->image_).uuid() != reference.uuid) {
    return changed(base->path_, image_path, "was replaced by another image");
  }
  const uint64_t generation = base->image_->info().generation;
  const bool same_generation =
      generation == reference.generation ||
      (reference.next_generation != 0 && generation == reference.next_generation);
  if (!same_generation || base->image_->virtual_size() != base->size_) {
    return changed(base->path_, image_path, "was written to");
  }
  return base;
}

void BaseImage::add_to(std::vector<BaseInfo>& chain, std::vector<std::string>& paths) const {
  chain.push_back(base_info(reference_, path_));
  if (!image_) return paths.push_back(path_);
  const ImageInfo info = image_->info();
  chain.insert(chain.end(), info.chain.begin(), info.chain.end());
  paths.insert(paths.end(), info.files.begin(), info.files.end());
}

Result<void> BaseImage::read(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t there = offset < size_ ? std::min<uint64_t>(out.size(), size_ - offset) : 0;
  std::memset(out.data() + there, 0, out.size() - there);
  auto rest = out.first(there);
  if (image_) return rest.empty() ? Result<void>() : image_->read(offset, rest);
  while (!rest.empty()) {
    const ssize_t n = pread(raw_->fd(), rest.data(), rest.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_error(errno, "cannot read '" + path_ + "'");
    if (n == 0) return make_error(Code::kCorrupt, "'" + path_ + "' was truncated");
    offset += static_cast<uint64_t>(n);
    rest = rest.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<void> BaseImage::map(uint64_t start, uint64_t length,
                            const std::function<void(const MapExtent&)>& fn) const {
  if (image_) return image_->map(start, length, fn);
  const uint64_t end = start + length;
  for (uint64_t at = start; at < end;) {
    const off_t data = lseek(raw_->fd(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno != ENXIO)
      return errno_error(errno, "cannot look for data in '" + path_ + "'");
    // Whole pages: a hole ends, and data begins, with one.
    const uint64_t first =
        data < 0 ? end : std::min(static_cast<uint64_t>(data) / kPageSize * kPageSize, end);
    if (first > at) fn({.start = at, .length = first - at});
    if (first >= end) break;
    const off_t hole = lseek(raw_->fd(), data, SEEK_HOLE);
    if (hole < 0) return errno_error(errno, "cannot look for holes in '" + path_ + "'");
    const uint64_t from = std::max(at, first);
    at = std::min(round_up(static_cast<uint64_t>(hole), kPageSize), end);
    fn({.start = from, .length = at - from, .data = true, .file_offset = from});
  }
  return {};
}

Result<GibLayout> BaseImage::layout(GibIndex gib) const {
  GibLayout layout;
  const uint64_t start = gib.value * kGiB;
  if (image_) {
    if (start < image_->virtual_size()) return image_->layout(gib);
    return layout;
  }
  const uint64_t end = round_up(size_, kPageSize);  // what lies behind it cannot be accessed
  if (start >= end) return layout;
  PCOW_TRY(map(start, std::min(kGiB, end - start), [&](const MapExtent& run) {
    for (uint64_t at = run.start / kChunkSize * kChunkSize; run.data && at < run.start + run.length;
         at += kChunkSize) {
      GibLayout::Chunk& chunk = layout.chunks.at((at - start) / kChunkSize);
      chunk.kind = GibLayout::Kind::kMixed;
      if (at + kChunkSize <= end) chunk = {GibLayout::Kind::kWindow, {0, at}};
    }
  }));
  if (start + kGiB <= end) layout.segment = {{0, start}};
  return layout;
}

Result<void> BaseView::read(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t there =
      base != nullptr && offset < end ? std::min<uint64_t>(out.size(), end - offset) : 0;
  std::memset(out.data() + there, 0, out.size() - there);
  return there > 0 ? base->read(offset, out.first(there)) : Result<void>();
}

Result<void> BaseView::add_pages(uint64_t start, std::vector<bool>& pages) const {
  const uint64_t stop = std::min(round_up(end, kPageSize), start + pages.size() * kPageSize);
  if (base == nullptr || start >= stop) return {};
  return base->map(start, stop - start, [&](const MapExtent& run) {
    for (uint64_t at = run.start; run.data && at < run.start + run.length; at += kPageSize) {
      pages[(at - start) / kPageSize] = true;
    }
  });
}

}  // namespace pcow
