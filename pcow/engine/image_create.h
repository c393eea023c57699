// SPDX-License-Identifier: BSD-3-Clause
//
// What an image that holds nothing consists of (FORMAT.md, section 2).
#pragma once

#include <pcow/image.h>
#include <pcow/status.h>
#include <string>
#include <vector>

#include "pcow/format/layout.h"
#include "pcow/media/image_file.h"

namespace pcow {

// Whether there can be such an image: size, log, number of files and unit. Errors: kInvalid.
Result<void> check_create_options(const CreateOptions& options);

// Writes it to `file`, which is empty and locked; durable when it returns, but for the names of the
// files. `members`: names of the others of a stripe set. Errors: kNoSpace, kIo.
Result<void> write_empty_image(ImageFile file, const CreateOptions& options,
                               const format::BaseReference& base, std::vector<std::string> members);

}  // namespace pcow
