// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/fuzz/image_input.h"
#include "tests/fuzz/template_image.h"

namespace fuzz {

// The pages of an image that are not holes, by offset (template_image.h).
using Pages = std::map<uint64_t, pcow::format::Block>;

struct PatchedImage {
  Striping striping;
  std::vector<uint64_t> file_sizes;
  Pages pages;
};

// The template that the input names, with its patches; checksums made right again unless the input
// says otherwise.
PatchedImage patch_template(const ImageInput& input);

// The same as files in memory that nothing else sees. Those of a stripe set are found by links.
class ImageFile {
 public:
  explicit ImageFile(const PatchedImage& image);
  ~ImageFile();
  ImageFile(const ImageFile&) = delete;
  ImageFile& operator=(const ImageFile&) = delete;

  const std::string& path() const { return path_; }
  // What the files hold now; pages of zeros are left out.
  PatchedImage content() const;

 private:
  const Striping striping_;
  std::vector<int> fds_;
  std::string path_;
  size_t place_ = 0;  // of a stripe set: which of the places for such it takes
};

}  // namespace fuzz
