// SPDX-License-Identifier: BSD-3-Clause
//
// The proof that the targets would find something: a reader with a defect. It verifies checksums
// and believes what they cover, as a real one once did, and reads the root's first segment table
// slot through an offset that it does not check. No input reaches that line with a wrong checksum.
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/patched_image.h"

namespace format = pcow::format;

namespace {

constexpr uint64_t kMetadataEnd = format::kLogOffset;

// The first 256 MiB of the file would do for every valid image.
uint8_t kind_of_segment_0(const fuzz::Pages& pages, uint64_t table) {
  if (table >= kMetadataEnd) std::abort();  // the defect: memory that a real reader does not own
  const auto page = pages.find(table);
  return page == pages.end() ? 0 : page->second.as<format::SegmentTableBlock>().entries[0].kind;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const fuzz::PatchedImage image = fuzz::patch_template(fuzz::decode({data, size}));
  const auto superblock = image.pages.find(format::kSuperblockOffset[0]);
  const auto root = image.pages.find(format::kRootOffset);
  if (superblock == image.pages.end() || root == image.pages.end()) return 0;
  const auto& sb = superblock->second.as<format::Superblock>();
  if (sb.magic != format::kSuperblockMagic || !format::superblock_checksum_ok(sb)) return 0;
  const std::string defect =
      format::block_defect(root->second, format::BlockType::kRoot, format::kRootOffset, sb.uuid);
  if (!defect.empty()) return 0;
  kind_of_segment_0(image.pages, root->second.as<format::RootBlock>().segment_table[0]);
  return 0;
}
