// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <pcow/pcow.h>

#include <cstring>

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

}  // namespace
