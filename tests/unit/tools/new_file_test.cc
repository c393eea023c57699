// SPDX-License-Identifier: BSD-3-Clause
#include "tools/pcow-img/new_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <optional>

#include "tests/support/image_fixture.h"
#include "tools/common/failure.h"

namespace pcow_img {
namespace {

using testing::HasSubstr;
using testing::UnorderedElementsAre;

class NewFileTest : public testing::Test {
 protected:
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(dir_.path())) {
      found.push_back(entry.path().filename().string());
    }
    return found;
  }

  const test::TempDir dir_;
  const std::string target_ = dir_.file("target");
};

TEST_F(NewFileTest, AppearsWhenPublished) {
  NewFile file(target_, false);
  test::write_file(file.path(), "new");
  EXPECT_FALSE(std::filesystem::exists(target_));
  file.publish();
  EXPECT_EQ(test::file_bytes(target_, 0, 3), "new");
  EXPECT_THAT(names(), UnorderedElementsAre("target"));
}

TEST_F(NewFileTest, LeavesNothingWhenNotPublished) {
  {
    const NewFile file(target_, false);
    test::write_file(file.path(), "new");
  }
  EXPECT_THAT(names(), testing::IsEmpty());
}

TEST_F(NewFileTest, AnExistingTargetStaysUntilItIsReplaced) {
  test::write_file(target_, "old");
  EXPECT_THROW(NewFile(target_, false), tools::Failure);
  {
    const NewFile file(target_, true);
    test::write_file(file.path(), "new");
  }
  EXPECT_EQ(test::file_bytes(target_, 0, 3), "old");
  NewFile file(target_, true);
  test::write_file(file.path(), "new");
  file.publish();
  EXPECT_EQ(test::file_bytes(target_, 0, 3), "new");
  EXPECT_THAT(names(), UnorderedElementsAre("target"));
}

TEST_F(NewFileTest, ATargetThatAppearsMeanwhileIsNotReplaced) {
  {
    NewFile file(target_, false);
    test::write_file(file.path(), "new");
    test::write_file(target_, "old");
    try {
      file.publish();
      FAIL() << "the other file was replaced";
    } catch (const tools::Failure& failure) {
      EXPECT_THAT(failure.what(), HasSubstr("File exists"));
    }
  }
  EXPECT_EQ(test::file_bytes(target_, 0, 3), "old");
  EXPECT_THAT(names(), UnorderedElementsAre("target"));
}

TEST_F(NewFileTest, ANameOfFullLengthWorks) {
  const std::string name(255, 'n');
  NewFile file(dir_.file(name), false);
  test::write_file(file.path(), "new");
  file.publish();
  EXPECT_THAT(names(), UnorderedElementsAre(name));
}

}  // namespace
}  // namespace pcow_img
