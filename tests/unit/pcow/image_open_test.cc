// SPDX-License-Identifier: BSD-3-Clause
//
// What can go wrong when an image is created or opened: each case has a message that names the file
// and leaves the file as it was.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "pcow/format/block.h"
#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSize = 64 * kMiB;
constexpr uint64_t kMetadataEnd = 4 * kMiB;  // of a small image: superblocks and first slots

class ImageOpenTest : public ::testing::Test {
 protected:
  // Expects open (for reading and for writing) to fail and to leave the file alone.
  void expect_refused(Code code, const std::string& message_part) {
    const std::string before = test::file_bytes(path_, 0, kMetadataEnd);
    for (const Access access : {Access::kReadOnly, Access::kReadWrite}) {
      OpenOptions options;
      options.access = access;
      const auto image = Image::open(path_, options);
      ASSERT_FALSE(image.has_value());
      EXPECT_EQ(code_name(image.error().code), code_name(code)) << image.error().message;
      EXPECT_THAT(image.error().message, HasSubstr(path_));
      EXPECT_THAT(image.error().message, HasSubstr(message_part));
    }
    EXPECT_EQ(test::file_bytes(path_, 0, kMetadataEnd), before);
  }

  void forge_superblocks(const std::function<void(format::Superblock&)>& change) {
    test::forge_superblocks(path_, change);
  }

  const test::TempDir dir_;
  const std::string path_ = dir_.file("vm.pcow");
};

TEST_F(ImageOpenTest, CreateRefusesSizesThatCannotBe) {
  for (const uint64_t size : {uint64_t{0}, kMiB, 3 * kMiB, 2 * kMiB + 1, 33 * kTiB}) {
    CreateOptions options;
    options.virtual_size = size;
    const auto result = Image::create(path_, options);
    ASSERT_FALSE(result.has_value()) << size;
    EXPECT_EQ(result.error().code, Code::kInvalid);
    EXPECT_FALSE(std::filesystem::exists(path_));
  }
  CreateOptions options;
  options.virtual_size = kSize;
  options.log_size = kMiB;
  EXPECT_FALSE(Image::create(path_, options).has_value());
}

TEST_F(ImageOpenTest, CreateNeverReplacesWhatItWasNotToldTo) {
  std::ofstream(path_) << "precious";
  CreateOptions options;
  options.virtual_size = kSize;
  auto result = Image::create(path_, options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kExists);
  EXPECT_EQ(test::file_bytes(path_, 0, 100), "precious");
  options.overwrite = true;
  ASSERT_OK(Image::create(path_, options));
  const auto user = test::open_image(path_);
  result = Image::create(path_, options);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code, Code::kBusy);
}

TEST_F(ImageOpenTest, ReplacingLeavesTheOtherFilesAlone) {
  std::ofstream(path_) << "old";
  std::ofstream(path_ + ".new") << "precious";
  CreateOptions options;
  options.virtual_size = kSize;
  options.overwrite = true;
  ASSERT_OK(Image::create(path_, options));
  ASSERT_OK(test::open_image(path_)->close());
  EXPECT_EQ(test::file_bytes(path_ + ".new", 0, 100), "precious");
  const std::filesystem::directory_iterator files(dir_.path());
  EXPECT_EQ(std::distance(begin(files), end(files)), 2);
}

TEST_F(ImageOpenTest, CreateNamesALinkToNothing) {
  std::filesystem::create_symlink(dir_.file("nothing"), path_);
  CreateOptions options;
  options.virtual_size = kSize;
  for (const bool overwrite : {false, true}) {
    options.overwrite = overwrite;
    const auto result = Image::create(path_, options);
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code, Code::kInvalid);
    EXPECT_THAT(result.error().message, HasSubstr("symbolic link"));
  }
  EXPECT_TRUE(std::filesystem::is_symlink(path_));
  EXPECT_FALSE(std::filesystem::exists(dir_.file("nothing")));
}

TEST_F(ImageOpenTest, MissingFileDirectoryAndFifo) {
  expect_refused(Code::kNotFound, "No such file");
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  OpenOptions options;
  EXPECT_EQ(Image::open(path_, options).error().code, Code::kInvalid);
  EXPECT_EQ(Image::open(dir_.path(), options).error().code, Code::kInvalid);
}

TEST_F(ImageOpenTest, ForeignFilesAreNamed) {
  const std::array<std::pair<std::string, const char*>, 6> cases = {
      {{"", "empty"},
       {std::string("QFI\xfb\0\0\0\3", 8), "qcow2"},
       {std::string("\0\0\2\0\100\0\0\0\0\0\0\0NBJL and more", 25), "older pcow format"},
       {"NBJL at the start", "raw"},
       {std::string(3 * kMiB, 'r'), "raw"},
       {"PCOWIM", "raw"}}};
  for (const auto& [content, name] : cases) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc) << content;
    expect_refused(Code::kForeign, name);
  }
}

TEST_F(ImageOpenTest, TruncatedImagesAreRefused) {
  test::create_image(path_, kSize);
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 3, test::pattern_page(3));
    ASSERT_OK(image->close());
  }
  std::filesystem::resize_file(path_, kGiB + 4096);
  expect_refused(Code::kCorrupt, "truncated");
  std::filesystem::resize_file(path_, 2 * kMiB + 4096);
  expect_refused(Code::kCorrupt, "truncated");
  std::filesystem::resize_file(path_, 4096);
  expect_refused(Code::kCorrupt, "truncated");
  std::filesystem::resize_file(path_, 100);
  expect_refused(Code::kCorrupt, "damaged");
}

TEST_F(ImageOpenTest, NewerVersionsAndUnknownFeaturesAreUnsupported) {
  test::create_image(path_, kSize);
  forge_superblocks([](format::Superblock& sb) { sb.version = 2; });
  expect_refused(Code::kUnsupported, "version 2");
  forge_superblocks([](format::Superblock& sb) {
    sb.version = 1;
    sb.incompatible = format::kIncompatibleDense | uint64_t{1} << 40;
  });
  expect_refused(Code::kUnsupported, "dense, bit 40");
}

TEST_F(ImageOpenTest, ForgedValuesUnderAValidChecksumAreRefused) {
  const std::vector<std::function<void(format::Superblock&)>> forgeries = {
      [](auto& sb) { sb.log_size = uint64_t{1} << 62; },
      [](auto& sb) { sb.log_offset = ~uint64_t{0} - 4095; },
      [](auto& sb) { sb.log_offset = 0; },
      [](auto& sb) { sb.log_tail = 7; },
      [](auto& sb) { sb.root_offset = 1 * kGiB; },
      [](auto& sb) { sb.chunk_shift = 63; },
      [](auto& sb) { sb.stripe_count = 4; },
      [](auto& sb) { sb.uuid = {}; }};
  for (const auto& forgery : forgeries) {
    std::filesystem::remove(path_);
    test::create_image(path_, kSize);
    forge_superblocks(forgery);
    expect_refused(Code::kCorrupt, "damaged");
  }
}

TEST_F(ImageOpenTest, ForgedRootBlocksAreRefused) {
  const std::vector<std::function<void(format::RootBlock&)>> forgeries = {
      [](auto& root) { root.virtual_size = 0; },
      [](auto& root) { root.virtual_size = ~uint64_t{0} << 21; },
      [](auto& root) { root.segment_count = 0; },
      [](auto& root) { root.segment_count = ~uint64_t{0}; },
      [](auto& root) { root.segment_count = 2; },
      [](auto& root) { root.active_record = ~uint64_t{0}; },
      [](auto& root) { root.active_record = root.active_record + 8; },
      [](auto& root) { root.active_layer = 9; },
      [](auto& root) { root.deleting_record = root.active_record; },
      [](auto& root) { root.trim_first_chunk = ~uint64_t{0}; },
      [](auto& root) { root.trim_chunk_count = ~uint64_t{0}; },
      [](auto& root) { root.allocated_pages = ~uint64_t{0}; },
      [](auto& root) { root.segment_table[0] = ~uint64_t{0} & ~uint64_t{0xffff}; }};
  for (const auto& forgery : forgeries) {
    std::filesystem::remove(path_);
    test::create_image(path_, kSize);
    test::forge_block(path_, format::kRootOffset,
                      [&](format::Block& block) { forgery(block.as<format::RootBlock>()); });
    expect_refused(Code::kCorrupt, "damaged");
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_GT(report->corruptions, 0u);
  }
}

TEST_F(ImageOpenTest, OneDamagedSuperblockIsAWarningAndIsRestored) {
  for (const uint64_t offset : format::kSuperblockOffset) {
    std::filesystem::remove(path_);
    test::create_image(path_, kSize);
    test::patch_file(path_, offset + 200, "X");
    {
      const auto image = test::open_image(path_, Access::kReadOnly);
      ASSERT_EQ(image->info().warnings.size(), 1u);
      EXPECT_THAT(image->info().warnings[0], HasSubstr(path_));
    }
    const auto report = check_image(path_, false, {});
    ASSERT_OK(report);
    EXPECT_EQ(report->corruptions, 1u);
    ASSERT_OK(test::open_image(path_)->close());
    test::expect_clean_check(path_);
  }
}

TEST_F(ImageOpenTest, BothSuperblocksDamaged) {
  test::create_image(path_, kSize);
  for (const uint64_t offset : format::kSuperblockOffset) {
    test::patch_file(path_, offset + 200, "X");
  }
  expect_refused(Code::kCorrupt, "neither superblock");
}

TEST_F(ImageOpenTest, OneWriterOrManyReaders) {
  test::create_image(path_, kSize);
  const auto writer = test::open_image(path_);
  OpenOptions options;
  for (const Access access : {Access::kReadOnly, Access::kReadWrite}) {
    options.access = access;
    const auto second = Image::open(path_, options);
    ASSERT_FALSE(second.has_value());
    EXPECT_EQ(second.error().code, Code::kBusy);
    EXPECT_THAT(second.error().message, HasSubstr(std::to_string(getpid())));
  }
  options.access = Access::kReadOnly;
  options.force_share = true;
  ASSERT_OK(Image::open(path_, options));
  ASSERT_OK(writer->close());
}

TEST_F(ImageOpenTest, WithoutAWriteNothingChanges) {
  test::create_image(path_, kSize);
  const std::string before = test::file_bytes(path_, 0, kMetadataEnd);
  OpenOptions options;
  options.access = Access::kReadWrite;
  options.virtual_size = 2 * kSize;
  const auto refused = Image::open(path_, options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kInvalid);
  EXPECT_THAT(refused.error().message, HasSubstr("use size=" + std::to_string(kSize)));
  options.virtual_size = kSize;
  {
    const auto image = Image::open(path_, options);
    ASSERT_OK(image);
    ASSERT_OK((*image)->commit());
    ASSERT_OK((*image)->close());
  }
  EXPECT_EQ(test::file_bytes(path_, 0, kMetadataEnd), before);
}

// What an older version does not keep true must not look true after it wrote.
TEST_F(ImageOpenTest, AWriterClearsAutoclearBitsThatItDoesNotKeepTrue) {
  const auto superblock = [this](uint64_t copy) {
    return test::read_superblock(path_, format::kSuperblockOffset[copy]);
  };
  test::create_image(path_, kSize);
  forge_superblocks([](format::Superblock& sb) {
    sb.compatible = 1 | uint64_t{1} << 30;
    sb.autoclear = 1 | uint64_t{1} << 40;
  });
  const std::string before = test::file_bytes(path_, 0, kMetadataEnd);
  test::open_image(path_, Access::kReadOnly);
  ASSERT_OK(test::open_image(path_)->close());
  EXPECT_EQ(test::file_bytes(path_, 0, kMetadataEnd), before);
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 9, test::pattern_page(9));
    // Dropped without close(): as after a crash.
  }
  for (const uint64_t copy : {0u, 1u}) {
    EXPECT_EQ(superblock(copy).autoclear, format::kAutoclearDataChecksumsValid);
    EXPECT_EQ(superblock(copy).compatible, 1 | uint64_t{1} << 30);
  }
  ASSERT_OK(test::open_image(path_)->close());
  for (const uint64_t copy : {0u, 1u}) {
    EXPECT_EQ(superblock(copy).autoclear, format::kAutoclearDataChecksumsValid);
  }
  forge_superblocks([](format::Superblock& sb) { sb.autoclear = 2; });
  {
    const auto image = test::open_image(path_);
    ASSERT_OK(image->resize(2 * kSize, false));
    ASSERT_OK(image->close());
  }
  for (const uint64_t copy : {0u, 1u}) EXPECT_EQ(superblock(copy).autoclear, 0u);
  test::expect_clean_check(path_);
}

TEST_F(ImageOpenTest, AnImageMarkedCorruptTakesNoWriters) {
  test::create_image(path_, kSize);
  forge_superblocks([](format::Superblock& sb) { sb.state = format::kStateCorrupt; });
  OpenOptions options;
  ASSERT_OK(Image::open(path_, options));
  options.access = Access::kReadWrite;
  EXPECT_EQ(Image::open(path_, options).error().code, Code::kCorrupt);
}

TEST_F(ImageOpenTest, ReadOnlyOpenOfAnUncleanImageChangesNothing) {
  test::create_image(path_, kSize);
  {
    const auto image = test::open_image(path_);
    test::write_page(*image, 9, test::pattern_page(9));
    // Dropped without close(): as after a crash.
  }
  const std::string before = test::file_bytes(path_, 0, kMetadataEnd);
  OpenOptions options;
  const auto refused = Image::open(path_, options);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, Code::kNeedsRecovery);
  options.replay_in_memory = true;
  const auto image = Image::open(path_, options);
  ASSERT_OK(image);
  EXPECT_FALSE((*image)->info().clean);
  EXPECT_EQ(test::read_page(**image, 9), test::pattern_page(9));
  EXPECT_EQ(test::file_bytes(path_, 0, kMetadataEnd), before);
}

}  // namespace
}  // namespace pcow
