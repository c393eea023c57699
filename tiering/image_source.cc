// SPDX-License-Identifier: BSD-3-Clause
#include "tiering/image_source.h"

namespace tiering {

pcow::Result<std::unique_ptr<pcow::Image>> open_image(const std::string& path,
                                                      const pcow::OpenOptions& options) {
  return pcow::Image::open(path, options);
}

}  // namespace tiering
