// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "tests/fuzz/image_input.h"
#include "tests/fuzz/template_image.h"

namespace fuzz {

// The pages of an image file that are not holes, by offset.
using Pages = std::map<uint64_t, pcow::format::Block>;

struct PatchedImage {
  uint64_t file_size = 0;
  Pages pages;
};

// The template that the input names, with its patches; checksums made right again unless the input
// says otherwise.
PatchedImage patch_template(const ImageInput& input);

// The same as a file in memory that nothing else sees.
class ImageFile {
 public:
  explicit ImageFile(const PatchedImage& image);
  ~ImageFile();
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;

  const std::string& path() const { return path_; }
  // What the file holds now; pages of zeros are left out.
  PatchedImage content() const;

 private:
  int fd_;
  std::string path_;
};

}  // namespace fuzz
