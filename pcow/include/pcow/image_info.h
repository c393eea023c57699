// SPDX-License-Identifier: BSD-3-Clause
//
// What an image tells of itself.
#pragma once

#include <pcow/status.h>
#include <pcow/units.h>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pcow {

// How stores to the medium become durable (pmem2_granularity of libpmem2(7)).
enum class Granularity { kByte, kCacheLine, kPage };
std::string_view granularity_name(Granularity granularity);  // "byte", "cache-line", "page"

enum class BaseFormat { kPcow = 1, kRaw = 2 };         // as in FORMAT.md, section 11
std::string_view base_format_name(BaseFormat format);  // "pcow", "raw"

struct BaseInfo {
  std::string path;       // as the image has it
  std::string full_path;  // to open it with
  BaseFormat format = BaseFormat::kPcow;
};

// A file of a stripe set.
struct StripeFile {
  std::string name;       // as the image has it; of the first, its path
  std::string full_path;  // to open it with
  uint64_t disk_bytes = 0;
};

struct SnapshotInfo {
  LayerId id;
  std::string name;
  std::optional<LayerId> parent;  // the snapshot before it in its history
  uint64_t created_ns = 0;        // Unix time
  Epoch epoch;                    // the committed state that it keeps
  uint64_t virtual_size = 0;
  uint64_t allocated_bytes = 0;  // pages written between the snapshot before it and this one
};

// What recovery replayed.
struct RecoveryReport {
  uint64_t transactions = 0;
  uint64_t log_bytes = 0;  // that they take
  uint64_t pages = 0;      // of metadata and data
};

// Space ahead of need (OpenOptions::reserve_ahead), since the image was opened.
struct AheadInfo {
  uint64_t reserved_bytes = 0;  // now, that nobody owns
  uint64_t used_pages = 0;      // were written, and had space already
  uint64_t missed_pages = 0;    // were written, and their writer had to reserve it
  bool busy = false;            // the thread has something to do
};

// Bytes stored to the medium since the image was opened, by what they were for. Neither holes nor
// space ahead of need are among them.
struct StoredBytes {
  uint64_t log = 0;
  uint64_t checkpoint = 0;  // from the log to their places
  uint64_t pages = 0;       // straight to their places
  uint64_t copies = 0;      // of pages that the image has elsewhere, log included: fold(), deletion
  uint64_t metadata = 0;

  uint64_t total() const { return log + checkpoint + pages + copies + metadata; }
};

struct ImageInfo {
  std::string path;
  std::string uuid;  // 36 characters
  uint32_t format_version = 0;
  uint64_t generation = 0;  // grows with every open that changed something
  uint64_t virtual_size = 0;
  uint64_t allocated_bytes = 0;  // pages the image owns
  uint64_t disk_bytes = 0;       // what its files occupy (st_blocks)
  uint64_t log_size = 0;
  Epoch committed_epoch;
  std::optional<BaseInfo> base;
  std::vector<BaseInfo> chain;     // the bases that are open, the image's own first
  std::vector<StripeFile> stripe;  // the files of a stripe set, the first file first; else empty
  uint64_t stripe_unit = 0;        // bytes; of a stripe set
  std::vector<std::string> files;  // paths of all files, as file() counts them
  Granularity granularity = Granularity::kPage;
  bool clean = true;             // closed cleanly, nothing to replay
  bool marked_corrupt = false;   // writers refuse it
  bool recovered = false;        // this open replayed the log
  RecoveryReport recovery = {};  // if it did
  bool deleting = false;         // continue_deletion() has something to do
  AheadInfo ahead = {};
  StoredBytes stored = {};
  std::vector<std::string> warnings;  // e.g. one damaged superblock copy
  // Why some of the figures are 0: the medium failed when it was asked.
  std::optional<Error> error = {};
};

}  // namespace pcow
