// SPDX-License-Identifier: BSD-3-Clause
//
// An image that is filled before it appears. Image::create() makes an empty one under its name;
// here the names, that of the image and those of the other files of a stripe set, are given when
// everything is stored.
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <cstdint>
#include <memory>
#include <string>

namespace pcow {

class NewImage {
 public:
  // Looks whether the image can be had: the options but for the virtual size, which may be 0 here,
  // and the names. What is replaced is locked. Nothing is created.
  // Errors: those of Image::create().
  static Result<NewImage> plan(const std::string& path, const CreateOptions& options);

  NewImage(NewImage&&) noexcept;
  NewImage& operator=(NewImage&&) = delete;
  // Removes what was not published; what was to be replaced is as before.
  ~NewImage();

  // Creates the files beside their places, under names of their own, and opens the image for
  // writing. `virtual_size`: of the image, unless 0. `base`: as in OpenOptions; whoever creates an
  // image knows what it is based on. May be called once.
  // Errors: those of Image::create() and Image::open().
  Result<std::unique_ptr<Image>> create(uint64_t virtual_size = 0,
                                        BaseAccess base = BaseAccess::kFollow);

  // Gives the files their names, durably; that of the image itself comes last. Of a stripe set, a
  // crash in between leaves what is refused by name: members without an image, or the image that
  // was to be replaced with a member that is not of its set. An error leaves everything as it was,
  // unless it is the last step that failed: making the image's name durable.
  // REQUIRES: what create() returned was closed; else kInvalid.
  // Errors: kExists (a name was taken meanwhile), kPermission, kNoSpace, kIo.
  Result<void> publish();

 private:
  friend class Image;
  class Impl;
  explicit NewImage(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace pcow
