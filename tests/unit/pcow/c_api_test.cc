// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <pcow/pcow.h>

#include <cstddef>
#include <cstring>
#include <filesystem>

#include "tests/support/image_fixture.h"

namespace {

TEST(CApi, GoesThroughTheLifeOfAnImage) {
  const test::TempDir dir;
  const std::string path = dir.file("a.pcow");
  pcow_error err{};
  ASSERT_EQ(pcow_create(path.c_str(), 64 * pcow::kMiB, 0, &err), PCOW_OK) << err.message;
  EXPECT_EQ(pcow_create(path.c_str(), 64 * pcow::kMiB, 0, &err), PCOW_E_EXISTS);
  EXPECT_NE(std::strstr(err.message, path.c_str()), nullptr);

  pcow_image* image = nullptr;
  ASSERT_EQ(pcow_open(path.c_str(), PCOW_OPEN_WRITABLE, &image, &err), PCOW_OK) << err.message;
  const test::Page data = test::pattern_page(5);
  const pcow_page_write write{17, data.data()};
  ASSERT_EQ(pcow_write_pages(image, &write, 1, &err), PCOW_OK) << err.message;
  uint64_t epoch = 0;
  ASSERT_EQ(pcow_commit(image, &epoch, &err), PCOW_OK) << err.message;
  EXPECT_EQ(epoch, 1u);
  test::Page read(pcow::kPageSize);
  ASSERT_EQ(pcow_read(image, 17 * pcow::kPageSize, read.data(), read.size(), &err), PCOW_OK);
  EXPECT_EQ(read, data);
  EXPECT_EQ(pcow_read(image, 64 * pcow::kMiB, read.data(), read.size(), &err), PCOW_E_INVALID);

  pcow_info info{};
  EXPECT_EQ(pcow_get_info(image, &info, &err), PCOW_E_INVALID);
  info.struct_size = sizeof(info);
  ASSERT_EQ(pcow_get_info(image, &info, &err), PCOW_OK);
  EXPECT_EQ(info.allocated_bytes, pcow::kPageSize);
  EXPECT_EQ(info.virtual_size_bytes, 64 * pcow::kMiB);
  EXPECT_EQ(std::strlen(info.uuid), 36u);

  pcow_image* second = nullptr;
  EXPECT_EQ(pcow_open(path.c_str(), PCOW_OPEN_WRITABLE, &second, &err), PCOW_E_BUSY);
  EXPECT_EQ(second, nullptr);
  EXPECT_EQ(pcow_close(image, &err), PCOW_OK);
  pcow_free(image);
  pcow_free(nullptr);
  test::expect_clean_check(path);
}

TEST(CApi, SnapshotsOnABase) {
  const test::TempDir dir;
  const std::string base = dir.file("base.pcow");
  const std::string path = dir.file("a.pcow");
  pcow_error err{};
  ASSERT_EQ(pcow_create(base.c_str(), 64 * pcow::kMiB, 0, &err), PCOW_OK) << err.message;
  ASSERT_EQ(pcow_create_on_base(path.c_str(), "base.pcow", false, 0, 0, &err), PCOW_OK)
      << err.message;
  pcow_image* image = nullptr;
  EXPECT_EQ(pcow_open(path.c_str(), 0, &image, &err), PCOW_E_PERMISSION);
  EXPECT_EQ(pcow_open(path.c_str(), 1u << 7, &image, &err), PCOW_E_INVALID);
  ASSERT_EQ(pcow_open(path.c_str(), PCOW_OPEN_WRITABLE | PCOW_OPEN_ALLOW_BASE, &image, &err),
            PCOW_OK)
      << err.message;
  ASSERT_EQ(pcow_snapshot_create(image, "one", &err), PCOW_OK) << err.message;
  ASSERT_EQ(pcow_snapshot_create(image, "two", &err), PCOW_OK) << err.message;
  EXPECT_EQ(pcow_snapshot_create(image, "two", &err), PCOW_E_EXISTS);
  std::vector<std::string> names;
  const auto note = [](const pcow_snapshot* snapshot, void* context) {
    static_cast<std::vector<std::string>*>(context)->emplace_back(snapshot->name);
    return snapshot->virtual_size_bytes == 64 * pcow::kMiB;
  };
  ASSERT_EQ(pcow_snapshot_list(image, note, &names, &err), PCOW_OK) << err.message;
  EXPECT_EQ(names, (std::vector<std::string>{"one", "two"}));
  ASSERT_EQ(pcow_snapshot_apply(image, "one", &err), PCOW_OK) << err.message;
  ASSERT_EQ(pcow_snapshot_delete(image, "two", &err), PCOW_OK) << err.message;
  EXPECT_EQ(pcow_snapshot_delete(image, "two", &err), PCOW_E_NOT_FOUND);
  EXPECT_EQ(pcow_close(image, &err), PCOW_OK);
  pcow_free(image);
  test::expect_clean_check(path);
}

TEST(CApi, ReportsWithoutAnErrorStructToo) {
  pcow_image* image = nullptr;
  EXPECT_EQ(pcow_open("/nonexistent/a.pcow", 0, &image, nullptr), PCOW_E_NOT_FOUND);
}

TEST(CApi, CreatesAStripeSet) {
  const test::TempDir dir;
  const std::string path = dir.file("a.pcow");
  pcow_error err{};
  const char* const members[] = {"a.1", "a.2", "a.3"};
  pcow_create_options options{};
  options.virtual_size_bytes = 64 * pcow::kMiB;
  options.stripe_paths = members;
  options.stripe_path_count = 3;
  options.stripe_unit_bytes = 2 * pcow::kMiB;
  EXPECT_EQ(pcow_create_with(path.c_str(), &options, &err), PCOW_E_INVALID);
  EXPECT_NE(std::strstr(err.message, "struct_size"), nullptr);
  options.struct_size = sizeof(options);
  ASSERT_EQ(pcow_create_with(path.c_str(), &options, &err), PCOW_OK) << err.message;
  const auto striped = test::open_image(path, pcow::Access::kReadOnly);
  ASSERT_NE(striped, nullptr);
  ASSERT_EQ(striped->info().stripe.size(), 4u);
  EXPECT_EQ(striped->info().stripe[3].name, "a.3");
  EXPECT_EQ(striped->info().stripe_unit, 2 * pcow::kMiB);

  options.overwrite = 1;
  EXPECT_EQ(pcow_create_with(path.c_str(), &options, &err), PCOW_E_BUSY);
  options.overwrite = 0;
  EXPECT_EQ(pcow_create_with(path.c_str(), &options, &err), PCOW_E_EXISTS);
  options.stripe_path_count = 2;
  EXPECT_EQ(pcow_create_with(dir.file("b.pcow").c_str(), &options, &err), PCOW_E_INVALID);
  EXPECT_NE(std::strstr(err.message, "3 files"), nullptr) << err.message;

  pcow_image* image = nullptr;
  ASSERT_EQ(pcow_open(path.c_str(), 0, &image, &err), PCOW_OK) << err.message;
  pcow_free(image);
  std::filesystem::rename(dir.file("a.2"), dir.file("away"));
  EXPECT_EQ(pcow_open(path.c_str(), 0, &image, &err), PCOW_E_NOT_FOUND);
  EXPECT_NE(std::strstr(err.message, "a.2"), nullptr) << err.message;
}

// Of callers that were compiled with another version of the header.
TEST(CApi, OptionsOfOtherVersions) {
  const test::TempDir dir;
  const std::string path = dir.file("a.pcow");
  pcow_error err{};
  struct {
    pcow_create_options known;
    uint64_t added;
  } newer{};
  newer.known.struct_size = sizeof(newer);
  newer.known.virtual_size_bytes = 64 * pcow::kMiB;
  newer.added = 1;
  EXPECT_EQ(pcow_create_with(path.c_str(), &newer.known, &err), PCOW_E_INVALID);
  EXPECT_FALSE(std::filesystem::exists(path));
  newer.added = 0;
  ASSERT_EQ(pcow_create_with(path.c_str(), &newer.known, &err), PCOW_OK) << err.message;
  newer.known.struct_size = offsetof(pcow_create_options, overwrite);
  newer.known.overwrite = 1;
  EXPECT_EQ(pcow_create_with(path.c_str(), &newer.known, &err), PCOW_E_INVALID);
  newer.known.struct_size = size_t{1} << 40;
  EXPECT_EQ(pcow_create_with(path.c_str(), &newer.known, &err), PCOW_E_INVALID);
  newer.known.struct_size = sizeof(newer.known);
  newer.known.overwrite = 2;
  EXPECT_EQ(pcow_create_with(path.c_str(), &newer.known, &err), PCOW_E_INVALID);
}

}  // namespace
