// SPDX-License-Identifier: BSD-3-Clause
//
// Stripe sets: where windows lie, and which files are taken for members.
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <functional>

#include "pcow/media/image_file.h"
#include "tests/support/image_fixture.h"

namespace pcow {
namespace {

namespace fs = std::filesystem;
using Kind = GibLayout::Kind;

constexpr uint64_t kSize = 2 * kGiB;

class StripeTest : public ::testing::Test {
 protected:
  // Members are called 1, 2, ...
  void create(const std::string& name, uint64_t files, uint64_t unit_windows) {
    CreateOptions options;
    options.virtual_size = kSize;
    options.log_size = 4 * kMiB;
    for (uint64_t i = 1; i < files; ++i) options.stripe.push_back(name + "." + std::to_string(i));
    options.stripe_unit = unit_windows * kWindowSize;
    ASSERT_OK(Image::create(dir_.file(name), options));
  }
  std::string file(const std::string& name) const { return dir_.file(name); }
  // Writes something, as a session of its own.
  void session(const std::string& name, uint64_t value) {
    const auto image = test::open_image(file(name));
    ASSERT_NE(image, nullptr);
    for (uint64_t chunk = 0; chunk < 8; ++chunk) {
      test::write_page(*image, chunk * kPagesPerChunk, test::pattern_page(value + chunk));
    }
    ASSERT_OK(image->close());
  }
  // Both refuse it, and say of which file and why.
  void expect_refused(Code code, const std::string& which, const std::string& why) {
    for (const Access access : {Access::kReadOnly, Access::kReadWrite}) {
      OpenOptions options;
      options.access = access;
      const auto image = Image::open(file("a"), options);
      ASSERT_FALSE(image.has_value());
      EXPECT_EQ(image.error().code, code) << image.error().message;
      EXPECT_NE(image.error().message.find("'" + file(which) + "'"), std::string::npos)
          << image.error().message;
      EXPECT_NE(image.error().message.find(why), std::string::npos) << image.error().message;
    }
    const auto report = check_image(file("a"), false, {});
    EXPECT_TRUE(!report || report->corruptions > 0);
  }
  // Holes stay holes: the files are a GiB long.
  void copy(const std::string& from, const std::string& to) {
    const File source = File::open(file(from), File::Mode::kRead).value();
    test::write_file(file(to), "");
    fs::resize_file(file(to), source.size().value());
    for (off_t at = 0; (at = lseek(source.fd(), at, SEEK_DATA)) >= 0;) {
      const off_t end = lseek(source.fd(), at, SEEK_HOLE);
      std::string bytes(static_cast<size_t>(end - at), '\0');
      ASSERT_OK(source.read(static_cast<uint64_t>(at), std::as_writable_bytes(std::span(bytes))));
      test::patch_file(file(to), static_cast<uint64_t>(at), bytes);
      at = end;
    }
  }

  test::TempDir dir_;
};

// Every byte of a segment has one place, no two have the same, and what follows in image space
// follows in the file up to the end of the unit.
TEST_F(StripeTest, UnitsTakeTurns) {
  for (uint64_t files = 2; files <= format::kMaxStripeFiles; files *= 2) {
    for (uint64_t unit = 1; unit <= kChunksPerSegment / files; unit *= 8) {
      SCOPED_TRACE(std::to_string(files) + " files, unit " + std::to_string(unit));
      test::write_file(file("x"), "");
      ImageFile image(File::open(file("x"), File::Mode::kReadWrite).value());
      std::vector<File> others;
      for (uint64_t i = 1; i < files; ++i) {
        others.push_back(File::open(file("x"), File::Mode::kReadWrite).value());
      }
      image.add_members(std::move(others), unit);
      for (uint64_t window = 0; window < 2 * kChunksPerSegment; ++window) {
        const ImageFile::Place place = image.place(window * kWindowSize + 5);
        ASSERT_EQ(place.file, window / unit % files);
        const uint64_t in_file = window / unit / files * unit + window % unit;
        ASSERT_EQ(place.offset, (in_file + (place.file == 0 ? 0 : 1)) * kWindowSize + 5);
        ASSERT_EQ(place.length, (unit - window % unit) * kWindowSize - 5);
      }
    }
  }
}

// Images name offsets, and may lie.
TEST_F(StripeTest, NothingIsReadBehindAllFiles) {
  test::write_file(file("x"), "");
  for (const bool striped : {false, true}) {
    ImageFile image(File::open(file("x"), File::Mode::kReadWrite).value());
    std::vector<File> members;
    if (striped) members.push_back(File::open(file("x"), File::Mode::kReadWrite).value());
    image.add_members(std::move(members), 1);
    const uint64_t headers_end = ImageFile::header_offset(1) + kWindowSize;
    for (const uint64_t offset : {headers_end, uint64_t{1} << 63, ~uint64_t{63}, ~uint64_t{0}}) {
      std::array<std::byte, kLineSize> bytes{};
      EXPECT_FALSE(image.read(offset, bytes).has_value());
    }
  }
}

TEST_F(StripeTest, RefusesLayerTablesOutsideTheImage) {
  const std::vector<uint64_t> offsets = {uint64_t{1} << 50, uint64_t{1} << 63, ~uint64_t{0}};
  for (size_t i = 0; i < offsets.size(); ++i) {
    const std::string name(1, static_cast<char>('a' + i));
    create(name, 2, 16);
    auto image = test::open_image(file(name));
    ASSERT_NE(image, nullptr);
    for (const char* snapshot : {"one", "two"}) {
      test::write_page(*image, 0, test::pattern_page(1));
      ASSERT_OK(image->create_snapshot(snapshot));
    }
    ASSERT_OK(image->close());
    const format::Block root = test::read_block(file(name), format::kRootOffset);
    const uint64_t directory = root.as<format::RootBlock>().layer_directory[0];
    test::forge_block(file(name), directory, [&](format::Block& block) {
      block.as<format::LayerDirectoryBlock>().records[1].tables[0] = offsets[i];
    });
    image = test::open_image(file(name));
    ASSERT_NE(image, nullptr);
    EXPECT_EQ(image->delete_snapshot("one").error().code, Code::kCorrupt);
    image.reset();
    OpenOptions options;
    options.access = Access::kReadWrite;
    EXPECT_EQ(Image::open(file(name), options).error().code, Code::kCorrupt);
  }
}

TEST_F(StripeTest, DataLiesWhereTheLayoutSays) {
  create("a", 4, 2);
  const auto image = test::open_image(file("a"));
  for (uint64_t chunk = 0; chunk < 16; ++chunk) {
    test::write_page(*image, chunk * kPagesPerChunk + 3, test::pattern_page(chunk));
  }
  EXPECT_EQ(image->file_count(), 4u);
  const GibLayout layout = image->layout(GibIndex(0)).value();
  ASSERT_EQ(layout.segment.size(), kChunksPerSegment / 2);
  for (uint64_t chunk = 0; chunk < 16; ++chunk) {
    const FilePlace window = layout.chunks[chunk].window;
    ASSERT_EQ(layout.chunks[chunk].kind, Kind::kWindow);
    EXPECT_EQ(window, place_in_segment(layout.segment, chunk));
    EXPECT_EQ(window.file, chunk / 2 % 4);
    const test::Page data = test::pattern_page(chunk);
    const std::string path = window.file == 0 ? "a" : "a." + std::to_string(window.file);
    EXPECT_EQ(test::file_bytes(file(path), window.offset + 3 * kPageSize, kPageSize),
              std::string(reinterpret_cast<const char*>(data.data()), kPageSize));
  }
  std::vector<MapExtent> runs;
  ASSERT_OK(image->map(0, 4 * kChunkSize, [&](const MapExtent& run) {
    if (run.data) runs.push_back(run);
  }));
  ASSERT_EQ(runs.size(), 4u);
  EXPECT_EQ(runs[2].file, 1u);
  EXPECT_EQ(runs[2].file_offset, layout.chunks[2].window.offset + 3 * kPageSize);
  ASSERT_OK(image->close());
  test::expect_clean_check(file("a"));
}

TEST_F(StripeTest, KnowsItsMembers) {
  create("a", 2, 16);
  session("a", 1);
  session("a", 2);
  const auto image = test::open_image(file("a"), Access::kReadOnly);
  ASSERT_EQ(image->info().stripe.size(), 2u);
  EXPECT_EQ(image->info().stripe[1].name, "a.1");
  EXPECT_EQ(image->info().stripe[1].full_path, file("a.1"));
  EXPECT_EQ(image->info().stripe_unit, 16 * kWindowSize);
  EXPECT_EQ(test::read_page(*image, 0), test::pattern_page(2));
  const auto other = Image::open(file("a"), {.access = Access::kReadWrite});
  EXPECT_EQ(other.error().code, Code::kBusy);
}

TEST_F(StripeTest, RefusesAMissingMember) {
  create("a", 4, 1);
  fs::remove(file("a.2"));
  expect_refused(Code::kNotFound, "a.2", "cannot open member 2 of stripe set");
}

TEST_F(StripeTest, RefusesSwappedMembers) {
  create("a", 4, 1);
  fs::rename(file("a.1"), file("x"));
  fs::rename(file("a.3"), file("a.1"));
  fs::rename(file("x"), file("a.3"));
  expect_refused(Code::kCorrupt, "a.1", "is member 3");
}

TEST_F(StripeTest, RefusesAnOldMember) {
  create("a", 2, 1);
  session("a", 1);
  copy("a.1", "old");
  session("a", 2);
  copy("a.1", "new");
  copy("old", "a.1");
  expect_refused(Code::kCorrupt, "a.1", "it is older than the rest");
  copy("new", "a.1");
  session("a", 3);
}

TEST_F(StripeTest, RefusesAnOldFirstFile) {
  create("a", 2, 1);
  session("a", 1);
  copy("a", "old");
  session("a", 2);
  copy("old", "a");
  expect_refused(Code::kCorrupt, "a.1", "it is newer than the first file");
}

// Taken while the set was in use, and put back after it was closed.
TEST_F(StripeTest, RefusesACopyOfAMemberInUse) {
  create("a", 2, 1);
  const auto image = test::open_image(file("a"));
  test::write_page(*image, 0, test::pattern_page(1));
  ASSERT_OK(image->commit());
  copy("a.1", "live");
  test::write_page(*image, kPagesPerChunk, test::pattern_page(2));
  ASSERT_OK(image->close());
  copy("live", "a.1");
  expect_refused(Code::kCorrupt, "a.1", "does not go with the other files");
}

// Two copies of one set that each went their own way for one session.
TEST_F(StripeTest, RefusesAMemberOfAnotherCopy) {
  create("a", 2, 1);
  session("a", 1);
  fs::create_directory(file("b"));
  copy("a", "b/a");
  copy("a.1", "b/a.1");
  session("a", 2);
  session("b/a", 3);
  copy("b/a.1", "a.1");
  expect_refused(Code::kCorrupt, "a.1", "another copy of the set");
}

TEST_F(StripeTest, RefusesForeignFiles) {
  create("a", 2, 1);
  create("b", 2, 1);
  test::create_image(file("c"), kSize);
  copy("a.1", "kept");
  copy("b.1", "a.1");
  expect_refused(Code::kForeign, "a.1", "a file of another one");
  copy("c", "a.1");
  expect_refused(Code::kForeign, "a.1", "an image of its own");
  test::write_file(file("a.1"), std::string(4 * kMiB, 'x'));
  expect_refused(Code::kForeign, "a.1", "is not a pcow image");
  copy("kept", "a.1");
  session("a", 1);
}

TEST_F(StripeTest, RefusesTheSameFileTwice) {
  create("a", 4, 1);
  fs::remove(file("a.2"));
  fs::create_symlink("a", file("a.2"));
  expect_refused(Code::kCorrupt, "a.2", "is open already");
  fs::remove(file("a.2"));
  fs::create_hard_link(file("a.1"), file("a.2"));
  expect_refused(Code::kCorrupt, "a.2", "is open already");
}

TEST_F(StripeTest, RefusesWhatIsNoFile) {
  create("a", 2, 1);
  fs::remove(file("a.1"));
  ASSERT_EQ(mkfifo(file("a.1").c_str(), 0600), 0);
  expect_refused(Code::kInvalid, "a.1", "not a regular file");
  fs::remove(file("a.1"));
  fs::create_symlink("/dev/zero", file("a.1"));
  expect_refused(Code::kInvalid, "a.1", "not a regular file");
  fs::remove(file("a.1"));
  fs::create_directory(file("a.1"));
  expect_refused(Code::kInvalid, "a.1", "cannot open");
}

TEST_F(StripeTest, RefusesAShortMember) {
  create("a", 2, 1);
  session("a", 1);
  fs::resize_file(file("a.1"), 256 * kMiB);
  expect_refused(Code::kCorrupt, "a.1", "is truncated");
}

TEST_F(StripeTest, RefusesAnotherShape) {
  create("a", 2, 1);
  copy("a.1", "kept");
  test::forge_superblocks(file("a.1"), [](auto& sb) { sb.stripe_unit_windows = 2; });
  expect_refused(Code::kCorrupt, "a.1", "with 2 windows a unit");
  test::forge_superblocks(file("a.1"), [](auto& sb) {
    sb.stripe_unit_windows = 1;
    sb.stripe_count = 4;
  });
  expect_refused(Code::kCorrupt, "a.1", "of a set of 4 files");
  copy("kept", "a.1");
  using Change = std::function<void(format::Superblock&)>;
  const std::vector<Change> impossible = {
      [](auto& sb) { sb.stripe_count = 3; },        [](auto& sb) { sb.stripe_count = 0; },
      [](auto& sb) { sb.stripe_count = 32; },       [](auto& sb) { sb.stripe_unit_windows = 0; },
      [](auto& sb) { sb.stripe_unit_windows = 3; }, [](auto& sb) { sb.stripe_unit_windows = 512; },
      [](auto& sb) { sb.set_uuid = {}; },           [](auto& sb) { sb.session = {}; },
      [](auto& sb) { sb.stripe_table_offset = 0; }, [](auto& sb) { sb.incompatible = 0; }};
  copy("a", "first");
  for (const Change& change : impossible) {
    test::forge_superblocks(file("a"), change);
    expect_refused(Code::kCorrupt, "a", "impossible values");
    copy("first", "a");
  }
}

// Each file says what all of them are made of.
TEST_F(StripeTest, RefusesImpossibleMembers) {
  create("a", 2, 1);
  copy("a.1", "kept");
  using Change = std::function<void(format::Superblock&)>;
  const std::vector<Change> impossible = {
      [](auto& sb) { sb.line_shift = 7; },  [](auto& sb) { sb.page_shift = 13; },
      [](auto& sb) { sb.chunk_shift = 1; }, [](auto& sb) { sb.segment_shift = 1; },
      [](auto& sb) { sb.session = {}; },    [](auto& sb) { sb.uuid = {}; }};
  for (const Change& change : impossible) {
    copy("kept", "a.1");
    test::forge_superblocks(file("a.1"), change);
    test::forge_block(file("a"), format::kStripeTableOffset, [&](format::Block& block) {
      block.as<format::StripeTableBlock>().members[0].uuid =
          test::read_superblock(file("a.1"), 0).uuid;
    });
    expect_refused(Code::kCorrupt, "a.1", "impossible values");
  }
}

// Names in the table come from whoever made the image.
TEST_F(StripeTest, RefusesNamesThatLeaveTheDirectory) {
  create("a", 2, 1);
  for (const std::string name : {"", ".", "..", "/etc/passwd", "../a.1", "b/a.1"}) {
    test::forge_block(file("a"), format::kStripeTableOffset, [&](format::Block& block) {
      format::StripeRecord& record = block.as<format::StripeTableBlock>().members[0];
      record.name = {};
      std::memcpy(record.name.data(), name.data(), name.size());
      record.name_length = static_cast<uint32_t>(name.size());
    });
    expect_refused(Code::kCorrupt, "a", "impossible name of a member");
  }
  test::forge_block(file("a"), format::kStripeTableOffset, [](format::Block& block) {
    block.as<format::StripeTableBlock>().members[0].name.fill('x');
  });
  expect_refused(Code::kCorrupt, "a", "impossible name of a member");
  test::patch_file(file("a"), format::kStripeTableOffset + 100, "x");
  expect_refused(Code::kCorrupt, "a", "stripe table");
}

TEST_F(StripeTest, AMemberIsNothingByItself) {
  create("a", 2, 1);
  for (const auto& error : {Image::open(file("a.1"), {}).error(),
                            Image::open(file("a.1"), {.access = Access::kReadWrite}).error(),
                            check_image(file("a.1"), false, {}).error()}) {
    EXPECT_EQ(error.code, Code::kUnsupported);
    EXPECT_NE(error.message.find("member 1 of a stripe set"), std::string::npos) << error.message;
  }
}

TEST_F(StripeTest, MendsADamagedCopyOfAMember) {
  create("a", 2, 1);
  session("a", 1);
  test::patch_file(file("a.1"), format::kSuperblockOffset[1] + 60, "x");
  EXPECT_EQ(check_image(file("a"), false, {})->corruptions, 1u);
  {
    const auto image = test::open_image(file("a"));
    ASSERT_EQ(image->info().warnings.size(), 1u);
    ASSERT_OK(image->close());
  }
  test::expect_clean_check(file("a"));
}

TEST_F(StripeTest, CreatesAllOrNothing) {
  create("a", 2, 1);
  CreateOptions options;
  options.virtual_size = kSize;
  options.stripe = {"b.1", "a.1", "b.3"};
  EXPECT_EQ(Image::create(file("b"), options).error().code, Code::kExists);
  EXPECT_FALSE(fs::exists(file("b")) || fs::exists(file("b.1")) || fs::exists(file("b.3")));
  options.overwrite = true;  // a.1 is of another set
  EXPECT_EQ(Image::create(file("b"), options).error().code, Code::kExists);
  options.stripe = {"b.1"};
  test::write_file(file("b.1"), "precious");
  test::create_image(file("b"), kSize);
  EXPECT_EQ(Image::create(file("b"), options).error().code, Code::kExists);
  EXPECT_EQ(test::file_bytes(file("b.1"), 0, 100), "precious");
  EXPECT_NE(test::open_image(file("b"), Access::kReadOnly), nullptr);
  options.stripe = {"a.1"};
  const auto old_set = test::read_superblock(file("a"), 0).set_uuid;
  ASSERT_OK(Image::create(file("a"), options));
  EXPECT_NE(test::read_superblock(file("a.1"), 0).set_uuid, old_set);
  session("a", 7);
  test::expect_clean_check(file("a"));
}

TEST_F(StripeTest, RefusesImpossibleSets) {
  const auto refuses = [&](std::vector<std::string> members, uint64_t unit) {
    CreateOptions options;
    options.virtual_size = kSize;
    options.stripe = std::move(members);
    options.stripe_unit = unit;
    EXPECT_EQ(Image::create(file("z"), options).error().code, Code::kInvalid);
    EXPECT_FALSE(fs::exists(file("z")) || fs::exists(file("1")));
  };
  refuses({"1", "2"}, 0);
  refuses(std::vector<std::string>(31, "1"), 0);
  refuses({"1"}, 3 * kWindowSize);
  refuses({"1"}, kMiB);
  refuses({"1"}, kGiB);
  refuses({"1", "1", "2"}, 0);
  refuses({"z"}, 0);
  refuses({".."}, 0);
  refuses({std::string(232, '1')}, 0);
  refuses({}, kWindowSize);
}

// In other directories, on other devices: the image finds them by links of its user's.
TEST_F(StripeTest, MembersElsewhereGetLinks) {
  fs::create_directory(file("one"));
  fs::create_directory(file("two"));
  CreateOptions options;
  options.virtual_size = kSize;
  options.stripe = {file("two/a.1")};
  ASSERT_OK(Image::create(file("one/a"), options));
  EXPECT_EQ(fs::read_symlink(file("one/a.1")), file("two/a.1"));
  session("one/a", 1);
  test::expect_clean_check(file("one/a"));
  options.stripe = {"../two/b.1"};
  ASSERT_OK(Image::create(file("one/b"), options));
  session("one/b", 1);
  options.stripe = {file("two/b.1")};
  EXPECT_EQ(Image::create(file("one/c"), options).error().code, Code::kExists);
  EXPECT_FALSE(fs::exists(file("one/c")));
}

TEST_F(StripeTest, ABaseMayBeStriped) {
  create("a", 2, 4);
  session("a", 1);
  CreateOptions options;
  options.base = Base{"a", BaseFormat::kPcow};
  options.stripe = {"b.1", "b.2", "b.3"};
  options.stripe_unit = kWindowSize;
  ASSERT_OK(Image::create(file("b"), options));
  const auto image = test::open_image(file("b"));
  ASSERT_NE(image, nullptr);
  EXPECT_EQ(image->file_count(), 6u);
  EXPECT_EQ(image->info().files.back(), file("a.1"));
  test::write_page(*image, 1, test::pattern_page(77));
  const GibLayout layout = image->layout(GibIndex(0)).value();
  EXPECT_EQ(layout.chunks[0].kind, Kind::kMixed);
  EXPECT_EQ(layout.chunks[3].window.file, 4u);
  EXPECT_EQ(layout.chunks[4].window.file, 5u);
  EXPECT_TRUE(layout.segment.empty());
  ASSERT_OK(image->fold(ChunkIndex(0), kChunksPerSegment));
  EXPECT_EQ(image->layout(GibIndex(0))->segment.size(), kChunksPerSegment);
  EXPECT_EQ(test::read_page(*image, 0), test::pattern_page(1));
  EXPECT_EQ(test::read_page(*image, 7 * kPagesPerChunk), test::pattern_page(8));
  ASSERT_OK(image->close());
  test::expect_clean_check(file("b"));
}

TEST(StripeUnit, KeepsMappingsWithinHalfTheBudget) {
  EXPECT_EQ(stripe_unit_for(kGiB, 2), 32 * kMiB);
  EXPECT_EQ(stripe_unit_for(64 * kGiB, 2), 32 * kMiB);
  EXPECT_EQ(stripe_unit_for(kTiB, 2), 256 * kMiB);
  EXPECT_EQ(stripe_unit_for(32 * kTiB, 2), 512 * kMiB);
  EXPECT_EQ(stripe_unit_for(32 * kTiB, 16), 64 * kMiB);
}

}  // namespace
}  // namespace pcow
