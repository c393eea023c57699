// SPDX-License-Identifier: BSD-3-Clause
//
// The files of an image that is being created, and the order in which they get their names: the
// members of a stripe set first, the image last. Until then there is no image of that name, or the
// old one, which takes none of the new members for its own.
#include <fcntl.h>
#include <pcow/new_image.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "pcow/base/no_memory.h"
#include "pcow/engine/base_image.h"
#include "pcow/engine/guarded_image.h"
#include "pcow/engine/image_create.h"
#include "pcow/engine/image_impl.h"
#include "pcow/engine/new_members.h"
#include "pcow/engine/superblock_store.h"
#include "pcow/media/file.h"

namespace pcow {
namespace {

// Creating would say "File exists" of a file that does not.
Result<void> refuse_dangling_link(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error) || std::filesystem::exists(path, error)) return {};
  return make_error(Code::kInvalid, "cannot create '" + path +
                                        "': it is a symbolic link to a file that does not exist; "
                                        "name that file, or remove the link");
}

// What would be found out only when the file gets its name.
Result<void> check_place(const std::string& path) {
  const std::string what = "cannot create '" + path + "'";
  struct stat st = {};
  if (::lstat(path.c_str(), &st) == 0) return errno_error(EEXIST, what);
  if (errno != ENOENT || path.empty()) return errno_error(errno, what);
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (::access(folder.empty() ? "." : folder.c_str(), W_OK) != 0) return errno_error(errno, what);
  return {};
}

// The file that is replaced, locked, if there is one; `set` is the stripe set that it names.
Result<std::optional<File>> open_replaced(const std::string& path,
                                          std::optional<format::Uuid>& set) {
  Result<File> old = File::open(path, File::Mode::kReadWrite);
  if (!old && old.error().code == Code::kNotFound) return std::optional<File>();
  if (!old) return std::move(old).error();
  PCOW_TRY(old->lock(true));
  ImageFile file(*std::move(old));
  PCOW_TRY_ASSIGN(const std::optional<SuperblockStore> store, SuperblockStore::load_if_image(file));
  if (store && store->current().member_index != 0) {
    return make_error(Code::kInvalid,
                      "cannot replace '" + path + "': it is member " +
                          std::to_string(store->current().member_index) +
                          " of a stripe set, which would be lost; name the first file of the set, "
                          "or remove this one");
  }
  if (store && store->current().stripe_count > 1) set = store->current().set_uuid;
  return std::optional<File>(std::move(file).take_first());
}

}  // namespace

class NewImage::Impl {
 public:
  Impl(std::string path, CreateOptions options)
      : path_(std::move(path)), options_(std::move(options)) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (!created_.empty()) ::unlink(created_.c_str());
  }

  // `size_follows`: the virtual size may be 0 so far.
  Result<void> plan(bool size_follows) {
    if (options_.base) {
      PCOW_TRY_ASSIGN(base_, BaseImage::refer(path_, options_.base->path, options_.base->format));
      if (options_.virtual_size == 0) options_.virtual_size = round_up(base_.base_size, kChunkSize);
    }
    CreateOptions checked = options_;
    if (size_follows && checked.virtual_size == 0) checked.virtual_size = kMinVirtualSize;
    fill_in(checked);
    PCOW_TRY(check_create_options(checked));
    PCOW_TRY(refuse_dangling_link(path_));
    std::optional<format::Uuid> replaced;
    if (options_.overwrite) {
      PCOW_TRY_ASSIGN(old_, open_replaced(path_, replaced));
    }
    // Who makes it at once is told by the call that does.
    if (size_follows && !old_) PCOW_TRY(check_place(path_));
    PCOW_TRY_ASSIGN(NewMembers members, NewMembers::plan(path_, options_.stripe, replaced));
    members_.emplace(std::move(members));
    return {};
  }

  bool replaces() const { return old_.has_value(); }

  // Writes an image without content, `staged` under other names.
  Result<void> write(uint64_t virtual_size, bool staged) {
    if (virtual_size != 0) options_.virtual_size = virtual_size;
    fill_in(options_);
    PCOW_TRY(check_create_options(options_));
    std::string name = staged ? temporary_name_beside(path_) : path_;
    PCOW_TRY_ASSIGN(File file, File::open(name, File::Mode::kCreate));
    created_ = std::move(name);
    PCOW_TRY(file.lock(true));
    ImageFile all(std::move(file));
    if (!options_.stripe.empty()) {
      PCOW_TRY_ASSIGN(std::vector<File> others, members_->create(staged));
      all.add_members(std::move(others), options_.stripe_unit / kWindowSize);
    }
    return write_empty_image(std::move(all), options_, base_, members_->names());
  }

  Result<std::unique_ptr<Image>> open(BaseAccess base) {
    OpenOptions options;
    options.access = Access::kReadWrite;
    options.base = base;
    OpenFiles files;
    const std::vector<std::string> members = members_->paths();
    PCOW_TRY_ASSIGN(std::unique_ptr<Image> image,
                    ImageImpl::open_impl(created_, options, files, &members));
    return std::unique_ptr<Image>(std::make_unique<GuardedImage>(created_, std::move(image)));
  }

  Result<void> check_closed() const {
    PCOW_TRY_ASSIGN(File file, File::open(created_, File::Mode::kRead));
    PCOW_TRY(file.lock(false));
    PCOW_TRY_ASSIGN(const SuperblockStore store, SuperblockStore::load(ImageFile(std::move(file))));
    if ((store.current().state & format::kStateDirty) == 0) return {};
    return make_error(Code::kInvalid, "'" + path_ + "' is not complete: it was not closed");
  }

  Result<void> publish() {
    PCOW_TRY(members_->publish());
    if (created_ == path_) {
      PCOW_TRY(sync_parent_directory(path_));
    } else if (old_) {
      // The old file is there until the new one is.
      if (std::rename(created_.c_str(), path_.c_str()) != 0) {
        return errno_error(errno, "cannot replace '" + path_ + "'");
      }
      // Whatever happens from here on, this is the image, and its members are to stay.
      Result<void> durable = memory_checked(path_, [&] { return sync_parent_directory(path_); });
      keep();
      return durable;
    } else {
      std::string path = path_;
      PCOW_TRY(rename_to_new_name(created_, path));
      created_ = std::move(path);
      PCOW_TRY(sync_parent_directory(path_));
    }
    keep();
    return {};
  }

  const std::string& path() const { return path_; }

 private:
  // What was left to us, which depends on the size.
  static void fill_in(CreateOptions& options) {
    if (options.log_size == 0) options.log_size = default_log_size(options.virtual_size);
    if (options.stripe_unit != 0 || options.stripe.empty()) return;
    options.stripe_unit = stripe_unit_for(options.virtual_size, options.stripe.size() + 1);
  }

  void keep() {
    created_.clear();
    members_->keep();
  }

  const std::string path_;
  CreateOptions options_;
  format::BaseReference base_{};
  std::optional<File> old_;  // that is replaced, locked
  std::optional<NewMembers> members_;
  std::string created_;  // the first file, as long as it is to be removed on failure
};

NewImage::NewImage(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
NewImage::NewImage(NewImage&&) noexcept = default;
NewImage::~NewImage() = default;

Result<NewImage> NewImage::plan(const std::string& path, const CreateOptions& options) {
  return memory_checked(path, [&]() -> Result<NewImage> {
    auto impl = std::make_unique<Impl>(path, options);
    PCOW_TRY(impl->plan(true));
    return NewImage(std::move(impl));
  });
}

Result<std::unique_ptr<Image>> NewImage::create(uint64_t virtual_size, BaseAccess base) {
  return memory_checked(impl_->path(), [&]() -> Result<std::unique_ptr<Image>> {
    PCOW_TRY(impl_->write(virtual_size, true));
    return impl_->open(base);
  });
}

Result<void> NewImage::publish() {
  return memory_checked(impl_->path(), [&]() -> Result<void> {
    PCOW_TRY(impl_->check_closed());
    return impl_->publish();
  });
}

Result<void> Image::create(const std::string& path, const CreateOptions& options) {
  return memory_checked(path, [&]() -> Result<void> {
    NewImage::Impl image(path, options);
    PCOW_TRY(image.plan(false));
    // A file that is replaced stays whole until the new one is complete. Otherwise the file is no
    // image until its superblocks are written, so it may have its name from the start.
    PCOW_TRY(image.write(0, image.replaces()));
    return image.publish();
  });
}

}  // namespace pcow
