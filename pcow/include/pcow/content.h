// SPDX-License-Identifier: BSD-3-Clause
//
// The content of an image, read by other code than the engine's: for tests that must not believe
// it.
#pragma once

#include <pcow/image.h>
#include <functional>
#include <span>
#include <string>

namespace pcow {

using PageVisitor = std::function<void(PageIndex page, std::span<const std::byte> content)>;

// Calls `visit` for each page that the active layer of an image owns itself: without snapshots and
// a base these are all that are not zero. Ascending within a GiB. Content and ownership are what
// the next recovery will leave. The image is checked meanwhile as by check_image(), read-only, and
// nothing of the engine takes part but the structure definitions: where the report has corruptions,
// pages may be missing. `visit` must not throw but std::bad_alloc.
// Errors: those of check_image().
Result<CheckReport> visit_pages(const std::string& path, const PageVisitor& visit);

}  // namespace pcow
