// SPDX-License-Identifier: BSD-3-Clause
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kSize = 2 * kGiB;
const test::Page kZeroPage(kPageSize);

test::Page page_of(uint64_t value) { return test::pattern_page(value); }

Result<std::unique_ptr<Image>> open_based(const std::string& path, BaseAccess base,
                                          Access access = Access::kReadWrite) {
  OpenOptions options;
  options.access = access;
  options.base = base;
  return Image::open(path, options);
}

class BaseImageTest : public ::testing::Test {
 protected:
  // A base with pages 1, 2 and one in the second GiB.
  void SetUp() override {
    test::create_image(base_, kSize, 4 * kMiB);
    const auto image = test::open_image(base_);
    test::write_page(*image, 1, page_of(11));
    test::write_page(*image, 2, page_of(12));
    test::write_page(*image, kPagesPerSegment, page_of(13));
    ASSERT_OK(image->close());
  }

  static void create(const std::string& path, const std::string& base,
                     BaseFormat format = BaseFormat::kPcow, uint64_t size = 0) {
    CreateOptions options;
    options.virtual_size = size;
    options.log_size = 4 * kMiB;
    options.base = Base{base, format};
    ASSERT_OK(Image::create(path, options));
  }
  static std::unique_ptr<Image> open(const std::string& path) {
    auto image = open_based(path, BaseAccess::kFollow);
    EXPECT_TRUE(image.has_value()) << image.error().message;
    return image ? *std::move(image) : nullptr;
  }
  static void close(std::unique_ptr<Image> image, const std::string& path) {
    ASSERT_OK(image->close());
    image.reset();
    test::expect_clean_check(path);
  }

  const test::TempDir dir_;
  const std::string base_ = dir_.file("base.pcow");
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_F(BaseImageTest, ShowsTheBaseUntilItIsWrittenOver) {
  create(path_, "base.pcow");
  auto image = open(path_);
  EXPECT_EQ(image->virtual_size(), kSize);
  EXPECT_EQ(image->info().allocated_bytes, 0u);
  EXPECT_EQ(image->info().base->full_path, base_);
  EXPECT_EQ(test::read_page(*image, 1), page_of(11));
  test::write_page(*image, 1, page_of(21));
  test::write_page(*image, 2, kZeroPage);
  test::write_page(*image, 3, page_of(23));
  EXPECT_EQ(test::read_page(*image, 1), page_of(21));
  EXPECT_EQ(test::read_page(*image, 2), kZeroPage);
  EXPECT_EQ(test::read_page(*image, kPagesPerSegment), page_of(13));
  close(std::move(image), path_);
  image = open(path_);
  EXPECT_EQ(test::read_page(*image, 1), page_of(21));
  EXPECT_EQ(test::read_page(*image, 2), kZeroPage);
  EXPECT_EQ(test::read_page(*image, 3), page_of(23));
  std::vector<MapExtent> data;
  ASSERT_OK(image->map(0, kSize, [&](const MapExtent& run) {
    if (run.data) data.push_back(run);
  }));
  ASSERT_EQ(data.size(), 2u);
  EXPECT_EQ(data[0].start, kPageSize);
  EXPECT_EQ(data[0].length, 3 * kPageSize);
  EXPECT_EQ(data[0].depth, 0u);
  EXPECT_EQ(data[1].start, kGiB);
  EXPECT_EQ(data[1].depth, 1u);
  close(std::move(image), path_);
  EXPECT_EQ(test::read_page(*test::open_image(base_), 1), page_of(11));
}

TEST_F(BaseImageTest, IsNotFollowedUnlessAllowed) {
  create(path_, base_);
  const auto refused = open_based(path_, BaseAccess::kRefuse);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(code_name(refused.error().code), code_name(Code::kPermission));
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr(path_), HasSubstr(base_)));

  std::filesystem::remove(base_);
  auto ignored = open_based(path_, BaseAccess::kIgnore);
  ASSERT_OK(ignored);
  test::Page page(kPageSize);
  EXPECT_EQ((*ignored)->read(0, page).error().code, Code::kPermission);
  test::write_page(**ignored, 0, page_of(1));
  EXPECT_EQ(test::read_page(**ignored, 0), page_of(1));
  ASSERT_OK((*ignored)->close());
}

TEST_F(BaseImageTest, ChainsOfImagesAndARawBase) {
  const std::string raw = dir_.file("raw.img");
  {
    std::ofstream file(raw, std::ios::binary);
    const test::Page page = page_of(1);
    for (int i = 0; i < 3; ++i) {
      file.write(reinterpret_cast<const char*>(page.data()),
                 static_cast<std::streamsize>(kPageSize));
    }
    file << "tail";
  }
  std::filesystem::create_directory(dir_.file("sub"));
  const std::string middle = dir_.file("sub/middle.pcow");
  create(middle, "../raw.img", BaseFormat::kRaw);
  auto image = open(middle);
  EXPECT_EQ(image->virtual_size(), kChunkSize);
  test::write_page(*image, 1, page_of(2));
  ASSERT_OK(image->close());
  image.reset();
  create(path_, "sub/middle.pcow", BaseFormat::kPcow, 3 * kGiB);
  image = open(path_);
  test::write_page(*image, 2, page_of(3));
  EXPECT_EQ(test::read_page(*image, 0), page_of(1));
  EXPECT_EQ(test::read_page(*image, 1), page_of(2));
  EXPECT_EQ(test::read_page(*image, 2), page_of(3));
  test::Page tail(kPageSize);
  std::memcpy(tail.data(), "tail", 4);
  EXPECT_EQ(test::read_page(*image, 3), tail);
  EXPECT_EQ(test::read_page(*image, kPagesPerChunk), kZeroPage);
  EXPECT_EQ(test::read_page(*image, 2 * kPagesPerSegment), kZeroPage);
  close(std::move(image), path_);

  std::ofstream(raw, std::ios::app) << "more";
  const auto changed = open_based(path_, BaseAccess::kFollow);
  ASSERT_FALSE(changed.has_value());
  EXPECT_EQ(code_name(changed.error().code), code_name(Code::kCorrupt));
  EXPECT_THAT(changed.error().message, AllOf(HasSubstr("raw.img"), HasSubstr(middle)));
}

TEST_F(BaseImageTest, AChangedReplacedOrMissingBaseIsRefused) {
  create(path_, base_);
  {
    const auto image = test::open_image(base_);
    test::write_page(*image, 9, page_of(9));
    ASSERT_OK(image->close());
  }
  auto opened = open_based(path_, BaseAccess::kFollow);
  ASSERT_FALSE(opened.has_value());
  EXPECT_THAT(opened.error().message,
              AllOf(HasSubstr(path_), HasSubstr(base_), HasSubstr("written to")));
  std::filesystem::remove(base_);
  opened = open_based(path_, BaseAccess::kFollow);
  EXPECT_EQ(opened.error().code, Code::kNotFound);
  EXPECT_THAT(opened.error().message, AllOf(HasSubstr(path_), HasSubstr(base_)));
  test::create_image(base_, kSize);
  opened = open_based(path_, BaseAccess::kFollow);
  EXPECT_THAT(opened.error().message, HasSubstr("replaced"));
}

TEST_F(BaseImageTest, ABaseInUseIsNotWritten) {
  create(path_, base_);
  const auto image = open(path_);
  OpenOptions options;
  options.access = Access::kReadWrite;
  EXPECT_EQ(Image::open(base_, options).error().code, Code::kBusy);
  const std::string other = dir_.file("other.pcow");
  create(other, base_);
  EXPECT_NE(open(other), nullptr);
}

TEST_F(BaseImageTest, AnImageIsNotItsOwnBase) {
  create(path_, base_);
  const auto uuid = test::read_superblock(base_, 0).uuid;
  test::forge_superblocks(base_, [&](format::Superblock& sb) {
    sb.base = test::read_superblock(path_, 0).base;
    sb.base.path = {};
    std::memcpy(sb.base.path.data(), "vm.pcow", 7);
    sb.base.path_length = 7;
    sb.incompatible = format::kIncompatibleBase;
  });
  ASSERT_EQ(test::read_superblock(base_, 0).uuid, uuid);
  const auto opened = open_based(path_, BaseAccess::kFollow);
  ASSERT_FALSE(opened.has_value());
  EXPECT_THAT(opened.error().message, HasSubstr("its own base"));
}

TEST_F(BaseImageTest, CreatingRefusesWhatCannotBeABase) {
  CreateOptions options;
  options.base = Base{"missing.pcow", BaseFormat::kPcow};
  EXPECT_EQ(Image::create(path_, options).error().code, Code::kNotFound);
  options.base->path = std::string(1024, 'x');
  EXPECT_EQ(Image::create(path_, options).error().code, Code::kInvalid);
  options.base->path = "";
  EXPECT_EQ(Image::create(path_, options).error().code, Code::kInvalid);
  std::ofstream(dir_.file("raw.img")) << "raw";
  options.base->path = "raw.img";
  const auto foreign = Image::create(path_, options);
  EXPECT_EQ(foreign.error().code, Code::kForeign);
  EXPECT_THAT(foreign.error().message, HasSubstr("raw"));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

// Its recovery would change the generation by which it is known.
TEST_F(BaseImageTest, ABaseIsClosedCleanly) {
  {
    const auto image = test::open_image(base_);
    test::write_page(*image, 9, page_of(9));
  }
  CreateOptions options;
  options.base = Base{base_, BaseFormat::kPcow};
  EXPECT_EQ(Image::create(path_, options).error().code, Code::kNeedsRecovery);
  ASSERT_OK(test::open_image(base_)->close());
  ASSERT_OK(Image::create(path_, options));
}

TEST_F(BaseImageTest, AChainHasAnEnd) {
  std::string below = base_;
  constexpr int kFilesMax = 64;
  for (int depth = 1; depth <= kFilesMax; ++depth) {
    const std::string image = dir_.file(std::to_string(depth));
    create(image, below);
    const auto opened = open_based(image, BaseAccess::kFollow, Access::kReadOnly);
    if (depth == kFilesMax) {
      ASSERT_FALSE(opened.has_value());
      EXPECT_EQ(code_name(opened.error().code), code_name(Code::kUnsupported));
    } else if (depth == kFilesMax - 1) {
      ASSERT_OK(opened);
      EXPECT_EQ((*opened)->info().chain.size(), 63u);
      EXPECT_EQ((*opened)->info().chain.back().full_path, base_);
      EXPECT_EQ(test::read_page(**opened, 1), page_of(11));
    }
    below = image;
  }
}

// The path comes from the image, and may reach a terminal.
TEST_F(BaseImageTest, MessagesHoldNoControlCharacters) {
  create(path_, base_);
  const std::string evil = "\x1b[2J\xc2\x9b";
  test::forge_superblocks(path_, [&](format::Superblock& sb) {
    sb.base.path = {};
    std::copy(evil.begin(), evil.end(), sb.base.path.begin());
    sb.base.path_length = static_cast<uint32_t>(evil.size());
  });
  auto image = open_based(path_, BaseAccess::kIgnore);
  ASSERT_OK(image);
  test::Page page(kPageSize);
  const std::string unread = (*image)->read(0, page).error().message;
  ASSERT_OK((*image)->close());
  for (const std::string& message : {unread, open_based(path_, BaseAccess::kRefuse).error().message,
                                     open_based(path_, BaseAccess::kFollow).error().message}) {
    EXPECT_EQ(message.find_first_of("\x1b\xc2\x9b"), std::string::npos) << message;
    EXPECT_THAT(message, HasSubstr("?[2J??"));
  }
}

TEST_F(BaseImageTest, ShrinkingHidesTheBaseForGood) {
  create(path_, base_);
  auto image = open(path_);
  ASSERT_OK(image->create_snapshot("whole"));
  ASSERT_OK(image->resize(kChunkSize, true));
  ASSERT_OK(image->resize(kSize, false));
  EXPECT_EQ(test::read_page(*image, 1), page_of(11));
  EXPECT_EQ(test::read_page(*image, kPagesPerSegment), kZeroPage);
  ASSERT_OK(image->apply_snapshot("whole"));
  EXPECT_EQ(test::read_page(*image, kPagesPerSegment), page_of(13));
  close(std::move(image), path_);
}

TEST_F(BaseImageTest, SnapshotsOverABase) {
  create(path_, base_);
  auto image = open(path_);
  test::write_page(*image, 1, page_of(21));
  ASSERT_OK(image->create_snapshot("one"));
  test::write_page(*image, 2, page_of(22));
  ASSERT_OK(image->apply_snapshot("one"));
  EXPECT_EQ(test::read_page(*image, 1), page_of(21));
  EXPECT_EQ(test::read_page(*image, 2), page_of(12));
  ASSERT_OK(image->delete_snapshot("one"));
  EXPECT_EQ(test::read_page(*image, 1), page_of(21));
  close(std::move(image), path_);
}

TEST_F(BaseImageTest, ForgedReferencesAreDamage) {
  create(path_, base_);
  const std::vector<std::function<void(format::Superblock&)>> forgeries = {
      [](format::Superblock& sb) { sb.base.format = 3; },
      [](format::Superblock& sb) { sb.base.path_length = 0; },
      [](format::Superblock& sb) { sb.base.path_length = 5000; },
      [](format::Superblock& sb) { sb.base.path[2] = '\0'; },
      [](format::Superblock& sb) { sb.base.uuid = {}; },
      [](format::Superblock& sb) { sb.base.base_size = 0; },
      [](format::Superblock& sb) { sb.incompatible = 0; }};
  const format::Superblock good = test::read_superblock(path_, 0);
  for (size_t i = 0; i < forgeries.size(); ++i) {
    SCOPED_TRACE(i);
    test::forge_superblocks(path_, forgeries[i]);
    const auto opened = open_based(path_, BaseAccess::kIgnore);
    ASSERT_FALSE(opened.has_value());
    EXPECT_EQ(code_name(opened.error().code), code_name(Code::kCorrupt));
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_GT(report->corruptions, 0u);
    test::forge_superblocks(path_, [&](format::Superblock& sb) {
      sb.base = good.base;
      sb.incompatible = good.incompatible;
    });
  }
  test::expect_clean_check(path_);
}

}  // namespace
}  // namespace pcow
