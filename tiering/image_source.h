// SPDX-License-Identifier: BSD-3-Clause
//
// Where a region of the C boundary gets its image from. A file of its own, because here a library
// with a deliberately broken image can be linked instead (tests/lab).
#pragma once

#include <pcow/image.h>
#include <memory>
#include <string>

namespace tiering {

// As pcow::Image::open().
pcow::Result<std::unique_ptr<pcow::Image>> open_image(const std::string& path,
                                                      const pcow::OpenOptions& options);

}  // namespace tiering
