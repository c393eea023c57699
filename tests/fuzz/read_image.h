// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <pcow/image.h>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace fuzz {

// Asks an open image for everything it tells of some parts of its guest memory, among them the
// first and the last: runs, segments, pages. Requires that all of it lies inside the file and,
// unless the image was replayed in memory only, that a mapping holds what read() returns. Returns a
// checksum of size and content of the guest memory that was read, wherever in the file it is, or
// nothing when a table is damaged.
std::optional<uint32_t> read_image(const pcow::Image& image);

// What a sound image shows, as above, by the name of the snapshot; the image itself has no name.
using Views = std::map<std::string, uint32_t>;
Views read_views(const std::string& path);

}  // namespace fuzz
