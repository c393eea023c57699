// SPDX-License-Identifier: BSD-3-Clause
//
// The base of an image (FORMAT.md, section 11): what shows where the image itself owns nothing.
// Read-only, and locked against writers while it is open.
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pcow/format/layout.h"
#include "pcow/media/image_file.h"

namespace pcow {

// The files of a chain that are open already, by device and inode.
using OpenFiles = std::vector<std::pair<uint64_t, uint64_t>>;

// What a region needs to know of a file, and of those of an image; asks the file system.
MappedFile mapped_file(const File& file);
std::vector<MappedFile> mapped_files(const ImageFile& file);

class BaseImage {
 public:
  // Makes a reference to `path`, as the user gave it, for an image at `image_path`. The base is
  // looked at, not followed further. Errors: as open().
  static Result<format::BaseReference> refer(const std::string& image_path, const std::string& path,
                                             BaseFormat format);

  // Opens what the reference names, for the image at `image_path`, and all that shows through it.
  // Every message names both files. Errors: kNotFound, kPermission, kBusy, kCorrupt (changed since,
  // or a circle), kNeedsRecovery, kForeign, kUnsupported, kIo.
  static Result<std::unique_ptr<BaseImage>> open(const format::BaseReference& reference,
                                                 const std::string& image_path,
                                                 const OpenOptions& options, OpenFiles& files);

  // The same for writing to it, which changes its generation. First announce() looks whether the
  // base is the one and may be written, and returns a reference that allows for the change; that is
  // stored, durably; then the base is opened with it. Further errors: kUnsupported (it has
  // snapshots).
  static Result<format::BaseReference> announce(const format::BaseReference& reference,
                                                const std::string& image_path,
                                                const OpenOptions& options, OpenFiles files);
  static Result<std::unique_ptr<BaseImage>> open_for_writing(const format::BaseReference& announced,
                                                             const std::string& image_path,
                                                             const OpenOptions& options,
                                                             OpenFiles files);
  // Pages that ascend. What lies behind the end is left out. REQUIRES: open for writing.
  Result<void> write(std::span<const PageWrite> pages);
  // Makes that durable and gives the base back. Returns the reference to what it is now.
  Result<format::BaseReference> finish_writing();

  // Bytes behind the end read as zeros.
  Result<void> read(uint64_t offset, std::span<std::byte> out) const;
  // Runs of [start, start + length), which lies below size(); `depth` counts from this base.
  Result<void> map(uint64_t start, uint64_t length,
                   const std::function<void(const MapExtent&)>& fn) const;
  uint64_t size() const { return size_; }
  // How to map it. Files are counted from this base.
  Result<GibLayout> layout(GibIndex gib) const;
  uint32_t file_count() const { return image_ ? image_->file_count() : 1; }
  MappedFile file(uint32_t index) const { return image_ ? image_->file(index) : mapped_; }
  // Adds this base, and what is beneath it; and all their files, in the order of file().
  void add_to(std::vector<BaseInfo>& chain, std::vector<std::string>& paths) const;

 private:
  BaseImage() = default;
  Result<void> open_raw(const format::BaseReference& reference, const std::string& image_path,
                        const OpenOptions& options, OpenFiles& files);

  Result<void> open_raw_for_writing();
  Result<void> open_image_for_writing(const OpenOptions& options, OpenFiles& files);
  Error changed_meanwhile() const;

  std::string path_;
  uint64_t size_ = 0;
  format::BaseReference reference_{};
  std::unique_ptr<Image> image_;  // of a pcow base
  std::optional<File> raw_;       // else
  MappedFile mapped_;             // how a raw base is mapped
};

// A base as a layer shows it: up to a byte that is the layer's, and zeros behind it.
struct BaseView {
  const BaseImage* base = nullptr;  // none: nothing but zeros
  uint64_t end = 0;

  Result<void> read(uint64_t offset, std::span<std::byte> out) const;
  // Sets those of the pages from byte `start` on that hold data; the others read as zeros.
  Result<void> add_pages(uint64_t start, std::vector<bool>& pages) const;
};

// Adds a file to those of a chain. kCorrupt: it is there already, so the chain goes round, and
// `what_then` says of it what that means. kUnsupported: they are too many.
Result<void> note_file(const File& file, OpenFiles& files,
                       const std::string& what_then = "is its own base, by way of others");
// All files of an image.
Result<void> note_files(const ImageFile& file, OpenFiles& files);
// The path in a reference, from the directory of the image.
std::string base_path(const format::BaseReference& reference, const std::string& image_path);
BaseInfo base_info(const format::BaseReference& reference, const std::string& full_path);
// What tells whether a raw base was changed.
struct RawState {
  uint64_t size;
  uint64_t mtime_ns;
};
Result<RawState> raw_state(const File& file);
// Why a reference cannot be one; empty if it can. `present`: the image has a base.
std::string base_defect(const format::BaseReference& reference, bool present);

}  // namespace pcow
