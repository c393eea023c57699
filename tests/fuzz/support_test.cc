// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>

#include <set>
#include <utility>
#include <vector>

#include "tests/fuzz/checksums.h"
#include "tests/fuzz/image_input.h"
#include "tests/fuzz/patched_image.h"
#include "tests/fuzz/read_image.h"
#include "tests/fuzz/session.h"
#include "tests/fuzz/template_recipes.h"

namespace fuzz {
namespace {

class Templates : public testing::TestWithParam<uint8_t> {
 protected:
  const TemplateImage& base() const { return template_images()[GetParam()]; }
};

// Otherwise the checksums would be "made right" in a way of their own.
TEST_P(Templates, SealingAValidImageChangesNothing) {
  for (const uint8_t flags : {uint8_t{0}, kFlagCount}) {
    const PatchedImage image = patch_template({GetParam(), flags, {}});
    ASSERT_EQ(image.pages.size(), base().pages.size());
    for (const TemplatePage& page : base().pages) {
      EXPECT_TRUE(image.pages.at(page.offset) == page.content) << page.offset;
    }
  }
}

TEST_P(Templates, IsSoundAndReadable) {
  const ImageFile file(patch_template({GetParam(), 0, {}}));
  const auto report = pcow::check_image(file.path(), false, {});
  ASSERT_TRUE(report.has_value()) << report.error().message;
  EXPECT_EQ(report->corruptions, 0U);
  EXPECT_FALSE(read_views(file.path()).empty());
}

// Whatever a writer does next. (Required by the session itself, and by the fuzz target.)
TEST_P(Templates, TakesEverySession) {
  for (uint8_t choice = 0; choice < kChoices; ++choice) {
    const ImageFile file(patch_template({GetParam(), 0, {}}));
    Views views = read_views(file.path());
    write_session(file.path(), choice, views);
    const auto report = pcow::check_image(file.path(), false, {});
    ASSERT_TRUE(report.has_value()) << report.error().message;
    EXPECT_EQ(report->corruptions, 0U) << report->messages.front();
    EXPECT_TRUE(report->clean);
  }
}

// A page more in a map is a page more everywhere.
TEST_P(Templates, CountedPagesAreSound) {
  for (size_t page = 0; page < base().pages.size(); ++page) {
    const TemplatePage& maps = base().pages[page];
    const uint64_t in_slot = maps.offset % pcow::format::kSlotSize;
    if (maps.role != Role::kChunkTable || in_slot != pcow::format::kPageMapsOffset) continue;
    ImageInput input = {GetParam(), kFlagCount, {}};
    Patch patch;
    patch.page = static_cast<uint8_t>(page);
    patch.offset = 8;  // of the map of chunk 0
    patch.bytes = {0xff};
    input.patches.push_back(patch);
    const ImageFile file(patch_template(input));
    const auto report = pcow::check_image(file.path(), false, {});
    ASSERT_TRUE(report.has_value()) << report.error().message;
    // The windows of a trim are to own nothing.
    if (base().name == "trimming") continue;
    EXPECT_EQ(report->corruptions, 0U) << page << ": " << report->messages.front();
  }
}

// A byte changed anywhere in the metadata passes every checksum again: what is wrong is said in
// other words.
TEST_P(Templates, ChangedMetadataPassesItsChecksums) {
  for (size_t page = 0; page < base().pages.size(); ++page) {
    const Role role = base().pages[page].role;
    if (role == Role::kLog || role == Role::kData) continue;
    ImageInput input = {GetParam(), 0, {}};
    Patch patch;
    patch.page = static_cast<uint8_t>(page);
    patch.offset = 1000;
    patch.bytes = {0xaa, 0xbb};
    input.patches.push_back(patch);
    const ImageFile file(patch_template(input));
    const auto report = pcow::check_image(file.path(), false, {});
    if (!report) continue;
    for (const std::string& message : report->messages) {
      EXPECT_EQ(message.find("checksum"), std::string::npos) << page << ": " << message;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Templates,
                         testing::Range<uint8_t>(0, static_cast<uint8_t>(recipes().size())),
                         [](const auto& each) { return std::string(recipes()[each.param].name); });

// What the engine stored after its last transaction.
pcow::format::RootBlock root_of(const char* name) {
  for (const TemplateImage& image : template_images()) {
    if (image.name != name) continue;
    for (const TemplatePage& page : image.pages) {
      if (page.offset == pcow::format::kRootOffset) {
        return page.content.as<pcow::format::RootBlock>();
      }
    }
  }
  return {};
}

// The recipes stop the engine where they say.
TEST(Recipes, LeaveWhatTheyAreNamedFor) {
  EXPECT_NE(root_of("deleting").deleting_record, 0U);
  EXPECT_NE(root_of("quarantined").quarantined_segments, 0U);
  EXPECT_NE(root_of("trimming").trim_chunk_count, 0U);
  EXPECT_EQ(root_of("layered").layer_count, 3U);
  EXPECT_EQ(root_of("branched").layer_count, 4U);
}

std::vector<pcow::format::Superblock> superblocks_of(const std::string& name) {
  std::vector<pcow::format::Superblock> found;
  for (const TemplateImage& image : template_images()) {
    for (const TemplatePage& page : image.pages) {
      const bool first = page.offset % pcow::kWindowSize == 0;
      if (image.name != name || page.role != Role::kSuperblock || !first) continue;
      found.push_back(page.content.as<pcow::format::Superblock>());
    }
  }
  return found;
}

TEST(Recipes, SetsHaveTheirFiles) {
  for (const auto& [name, files] : {std::pair{"striped", 4U}, {"striped_unclean", 2U}}) {
    const auto superblocks = superblocks_of(name);
    ASSERT_EQ(superblocks.size(), files) << name;
    for (uint32_t index = 0; index < files; ++index) {
      EXPECT_EQ(superblocks[index].member_index, index);
      EXPECT_EQ(superblocks[index].session, superblocks[0].session);
    }
  }
  const auto between = superblocks_of("striped_session");
  ASSERT_EQ(between.size(), 4U);
  EXPECT_EQ(between[1].session, between[0].next_session);
  EXPECT_EQ(between[2].session, between[0].session);
}

// Every place of image space is one in a file, and the other way round.
TEST(Striping, IsOneToOne) {
  for (const uint64_t files : {uint64_t{1}, uint64_t{2}, uint64_t{4}}) {
    const Striping striping = {files, files == 1 ? 0 : pcow::kWindowSize};
    std::set<std::pair<size_t, uint64_t>> seen;
    for (uint64_t offset = 0; offset < 64 * pcow::kMiB; offset += pcow::kMiB) {
      const Striping::Place place = striping.place(offset);
      EXPECT_EQ(striping.offset(place), offset);
      EXPECT_TRUE(seen.emplace(place.file, place.offset).second);
    }
  }
}

TEST(ImageInput, EncodeIsTheInverseOfDecode) {
  ImageInput input = {2, kFlagReplay, {}};
  for (unsigned kind = 0; kind < kPatchKinds; ++kind) {
    Patch patch;
    patch.kind = static_cast<Patch::Kind>(kind);
    patch.page = 7;
    patch.place = 0x12345678;
    patch.offset = 4000;
    patch.bytes = {1, 2, 3};
    input.patches.push_back(patch);
  }
  const std::vector<uint8_t> bytes = encode(input);
  EXPECT_EQ(encode(decode(bytes)), bytes);
  EXPECT_EQ(decode(bytes).patches.size(), kPatchKinds);
}

TEST(ImageInput, AnyBytesMeanSomething) {
  std::vector<uint8_t> bytes;
  for (unsigned n = 0; n < 300; ++n) {
    const ImageInput input = decode(bytes);
    EXPECT_EQ(encode(decode(encode(input))), encode(input));
    patch_template(input);
    bytes.push_back(static_cast<uint8_t>(n * 37));
  }
}

}  // namespace
}  // namespace fuzz
