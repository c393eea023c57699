// SPDX-License-Identifier: BSD-3-Clause
//
// Checksums of what snapshots keep (FORMAT.md, section 9): made on request, one a window, and
// verified. They find what rotted on the medium, which no checksum of metadata sees.
//
// Only frozen layers have them: their windows do not change. What the image itself has written
// since its newest snapshot is not covered.
#pragma once

#include <pcow/image.h>
#include <string>
#include <vector>

namespace pcow {

// A window whose pages do not fit their checksum.
struct BadWindow {
  uint64_t guest_offset = 0;  // bytes
  uint64_t length = 0;        // bytes; the pages that are owned lie in it
  uint64_t file_offset = 0;   // bytes
  uint64_t layer = 0;         // that it was written in; 0: several snapshots, equally
  std::string snapshot;       // its name; empty: of several, or of one that is deleted
};

struct ScrubReport {
  CheckReport check;
  uint64_t verified_pages = 0;    // that have a checksum, right or wrong
  uint64_t unverified_pages = 0;  // of snapshots, without one
  uint64_t active_pages = 0;      // of the image itself
  std::vector<BadWindow> bad;     // by place in the file
};

// Checks an image as check_image() does, and compares what snapshots keep with its checksums.
// Read-only; the image must not be open for writing. Errors: those of check_image().
Result<ScrubReport> scrub_image(const std::string& path, const Progress& progress);

// Makes the checksums that are missing, of what is there now: verify what has some already before.
// Returns how many pages they cover. The content and its generation stay. A crash leaves some of
// them made. Errors: those of Image::open() for writing, which this does; kNoSpace.
Result<uint64_t> add_checksums(const std::string& path, const Progress& progress);

}  // namespace pcow
