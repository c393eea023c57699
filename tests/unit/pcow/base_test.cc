// SPDX-License-Identifier: BSD-3-Clause
#include <gtest/gtest.h>
#include <pcow/image.h>

#include <array>
#include <cstring>

#include "pcow/base/crc32c.h"
#include "pcow/base/le.h"
#include "pcow/format/block.h"

namespace pcow {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// The vectors of RFC 3720, appendix B.4.
TEST(Crc32c, MatchesThePublishedVectors) {
  EXPECT_EQ(crc32c(bytes_of("123456789")), 0xe3069283u);
  std::array<std::byte, 32> data{};
  EXPECT_EQ(crc32c(data), 0x8a9136aau);
  data.fill(std::byte{0xff});
  EXPECT_EQ(crc32c(data), 0x62a8ab43u);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc32c(data), 0x46dd794eu);
}

TEST(Crc32c, ContinuesOverParts) {
  const auto all = bytes_of("a page torn in two");
  EXPECT_EQ(crc32c(all.subspan(7), crc32c(all.first(7))), crc32c(all));
}

TEST(LittleEndian, HasTheBytesOfTheSpecification) {
  const Le32 value(0x11223344);
  std::array<uint8_t, 4> raw{};
  std::memcpy(raw.data(), &value, sizeof(raw));
  EXPECT_EQ(raw, (std::array<uint8_t, 4>{0x44, 0x33, 0x22, 0x11}));
  EXPECT_EQ(static_cast<uint32_t>(value), 0x11223344u);
}

TEST(ParseSize, ReadsWhatQemuImgReads) {
  const std::array<std::pair<const char*, uint64_t>, 9> cases = {
      {{"0", 0},
       {"4096", 4096},
       {"64M", 64 * kMiB},
       {"64m", 64 * kMiB},
       {"1.5G", 1536 * kMiB},
       {"1T", kTiB},
       {"512B", 512},
       {"7k", 7 * kKiB},
       {"9223372036854775807", INT64_MAX}}};
  for (const auto& [text, bytes] : cases) {
    const auto size = parse_size(text);
    ASSERT_TRUE(size.has_value()) << text << ": " << size.error().message;
    EXPECT_EQ(*size, bytes) << text;
  }
}

TEST(ParseSize, RefusesTheRestAndSaysWhy) {
  for (const char* text : {"", "G", "-1", "1X", "1GB", "1G ", " 1G", "0x10", "9223372036854775808",
                           "8E", "1e3", "nan", "inf", "0.3B", "1.0000000001K"}) {
    const auto size = parse_size(text);
    ASSERT_FALSE(size.has_value()) << text;
    EXPECT_EQ(size.error().code, Code::kInvalid);
    EXPECT_NE(size.error().message.find("is not a size"), std::string::npos) << text;
  }
}

TEST(FormatSize, PrintsThreeDigits) {
  EXPECT_EQ(format_size(0), "0 B");
  EXPECT_EQ(format_size(64 * kMiB), "64 MiB");
  EXPECT_EQ(format_size(1536 * kMiB), "1.5 GiB");
  EXPECT_EQ(format_size(kTiB), "1 TiB");
  EXPECT_EQ(format_size(1023 * kMiB), "0.999 GiB");
}

TEST(Error, KnowsErrno) {
  const Error error = errno_error(ENOSPC, "cannot grow 'a.pcow'");
  EXPECT_EQ(error.code, Code::kNoSpace);
  EXPECT_EQ(error.sys_errno, ENOSPC);
  EXPECT_NE(error.message.find("'a.pcow'"), std::string::npos);
  EXPECT_NE(error.message.find("free space"), std::string::npos);
  EXPECT_EQ(code_name(Code::kNoSpace), "no-space");
}

TEST(Block, SealedIsValidAndEveryFlipIsFound) {
  const format::Uuid uuid = format::new_uuid();
  format::Block block;
  format::init_header(block, format::BlockType::kRoot, 8192, 3, uuid);
  block.bytes[1000] = std::byte{1};
  format::seal(block);
  EXPECT_EQ(format::block_defect(block, format::BlockType::kRoot, 8192, uuid), "");
  EXPECT_NE(format::block_defect(block, format::BlockType::kRoot, 4096, uuid), "");
  EXPECT_NE(format::block_defect(block, format::BlockType::kSlotMap, 8192, uuid), "");
  EXPECT_NE(format::block_defect(block, format::BlockType::kRoot, 8192, format::Uuid{}), "");
  for (size_t i = 0; i < block.bytes.size(); ++i) {
    block.bytes[i] ^= std::byte{0x10};
    EXPECT_NE(format::block_defect(block, format::BlockType::kRoot, 8192, uuid), "") << i;
    block.bytes[i] ^= std::byte{0x10};
  }
}

}  // namespace
}  // namespace pcow
