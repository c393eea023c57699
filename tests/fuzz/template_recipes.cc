// SPDX-License-Identifier: BSD-3-Clause
#include "tests/fuzz/template_recipes.h"

#include <fcntl.h>
#include <pcow/image.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>

#include "pcow/format/layout.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/syscall_faults.h"

namespace fuzz {
namespace {

using pcow::kGiB;
using pcow::kMiB;
using pcow::kPageSize;
using ImagePtr = std::unique_ptr<pcow::Image>;

// The smallest, so that metadata, log and data lie in all files.
constexpr uint64_t kUnit = pcow::kWindowSize;

template <typename T>
T must(pcow::Result<T> result) {
  require(result.has_value(), result ? "" : result.error().message);
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

ImagePtr open_writable(const std::string& path) {
  pcow::OpenOptions options;
  options.access = pcow::Access::kReadWrite;
  return must(pcow::Image::open(path, options));
}

ImagePtr create(const std::string& path, uint64_t size, uint64_t files = 1) {
  pcow::CreateOptions options;
  options.virtual_size = size;
  for (uint64_t index = 1; index < files; ++index) options.stripe.push_back(member_name(index));
  if (files > 1) options.stripe_unit = kUnit;
  options.log_size = kTemplateLogSize;
  must(pcow::Image::create(path, options));
  return open_writable(path);
}

// `round` tells apart what a page holds at different times.
void write_page(pcow::Image& image, uint64_t offset, uint64_t round = 0) {
  const std::vector<std::byte> bytes(kPageSize,
                                     static_cast<std::byte>(0x40 + offset / kGiB + 16 * round));
  const pcow::PageWrite write = {pcow::PageIndex(offset / kPageSize), bytes.data()};
  must(image.write_pages({&write, 1}));
}

// The last page is stored after the last commit.
void write_pages(pcow::Image& image, const std::vector<uint64_t>& offsets) {
  for (const uint64_t offset : offsets) {
    write_page(image, offset);
    if (offset != offsets.back()) must(image.commit());
  }
}

void empty(const std::string& path) { must(create(path, 64 * kMiB)->close()); }

void closed(const std::string& path) {
  const ImagePtr image = create(path, 2 * kGiB);
  write_pages(*image, {0, 5 * kMiB, kGiB + 4 * kMiB});
  must(image->close());
}

void unclean(const std::string& path) {
  write_pages(*create(path, 2 * kGiB), {0, kPageSize, 5 * kMiB, kGiB + 4 * kMiB});
}

void many_tables(const std::string& path) {
  write_pages(*create(path, 6 * pcow::kTiB), {kGiB, 6 * pcow::kTiB - kPageSize});
}

// Three layers, each with pages of its own and pages that hide older ones.
ImagePtr layered_image(const std::string& path, uint64_t files = 1) {
  ImagePtr image = create(path, 2 * kGiB, files);
  for (const uint64_t offset : {uint64_t{0}, kPageSize, 2 * kPageSize, 3 * kPageSize, kGiB}) {
    write_page(*image, offset);
  }
  must(image->create_snapshot("a"));
  for (const uint64_t offset : {uint64_t{0}, 5 * kMiB, kGiB}) write_page(*image, offset, 1);
  must(image->create_snapshot("b"));
  write_page(*image, kPageSize, 2);
  must(image->commit());
  return image;
}

void layered(const std::string& path) { must(layered_image(path)->close()); }

void layered_unclean(const std::string& path) { layered_image(path); }

// Two histories that share what snapshot a keeps.
void branched(const std::string& path) {
  const ImagePtr image = layered_image(path);
  must(image->apply_snapshot("a"));
  write_page(*image, 2 * kPageSize, 3);
  must(image->create_snapshot("c"));
  write_page(*image, kGiB + kPageSize, 3);
}

// The nth call of its kind fails, and so does `work`; what is there then stays.
template <typename Work>
void stop(test::Call call, uint64_t nth, Work work) {
  const test::FaultPlan plan(call, nth, EIO);
  require(!work().has_value() && plan.hit(), "the work of a template is stopped");
}

// In the middle of what the layer of snapshot a gives up: the mark takes some reservations.
void deleting(const std::string& path) {
  layered(path);
  const ImagePtr image = open_writable(path);
  constexpr uint64_t kReservation = 6;
  stop(test::Call::kReserve, kReservation, [&] { return image->delete_snapshot("a"); });
}

// A segment in quarantine is empty already, its table is not: the first hole is the layer table's.
void quarantined(const std::string& path) {
  layered(path);
  const ImagePtr image = open_writable(path);
  constexpr uint64_t kHole = 3;
  stop(test::Call::kPunch, kHole, [&] { return image->delete_snapshot("a"); });
}

// The windows that a shrink dropped are not empty yet; what a snapshot keeps there stays.
void trimming(const std::string& path) {
  const ImagePtr image = create(path, 2 * kGiB);
  write_pages(*image, {0, 5 * kMiB, kGiB + 4 * kMiB});
  must(image->create_snapshot("a"));
  write_page(*image, 5 * kMiB, 1);
  write_page(*image, 7 * kMiB, 1);
  must(image->commit());
  stop(test::Call::kPunch, 1, [&] { return image->resize(4 * kMiB, true); });
}

void striped(const std::string& path) { must(layered_image(path, 4)->close()); }

// Epochs in the log, over both files, that were not checkpointed: with lines, and with zeros.
void striped_unclean(const std::string& path) {
  const ImagePtr image = layered_image(path, 2);
  std::vector<std::byte> bytes(kPageSize, std::byte{0x77});
  for (const uint64_t offset : {uint64_t{0}, 5 * kMiB, kGiB, kGiB + 3 * kMiB}) {
    const pcow::PageWrite write = {pcow::PageIndex(offset / kPageSize), bytes.data()};
    must(image->log_pages({&write, 1}));
  }
  must(image->commit());
  std::ranges::fill(bytes, std::byte{0});
  const pcow::PageWrite zero = {pcow::PageIndex(kGiB / kPageSize), bytes.data()};
  must(image->log_pages({&zero, 1}));
  must(image->commit());
}

pcow::format::Superblock superblock_of(const std::string& path) {
  pcow::format::Superblock sb{};
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  require(fd >= 0 && pread(fd, &sb, sizeof(sb), 0) == sizeof(sb), "a superblock can be read");
  ::close(fd);
  return sb;
}

// A change of the session is announced, and the first of the members has it.
bool is_between_sessions(const std::string& path) {
  const auto next = superblock_of(path).next_session;
  return next != pcow::format::Uuid{} && superblock_of(member_path(path, 1)).session == next &&
         superblock_of(member_path(path, 2)).session != next;
}

// The first write that fails half-way through the members leaves that: made anew for each.
void striped_session(const std::string& path) {
  const std::vector<std::byte> bytes(kPageSize, std::byte{0x31});
  for (uint64_t nth = 1;; ++nth) {
    striped(path);
    {
      const ImagePtr image = open_writable(path);
      const pcow::PageWrite write = {pcow::PageIndex(0), bytes.data()};
      stop(test::Call::kWrite, nth, [&] { return image->write_pages({&write, 1}); });
    }
    if (is_between_sessions(path)) return;
    std::filesystem::remove(path);
    for (size_t index = 1; index < 4; ++index) std::filesystem::remove(member_path(path, index));
  }
}

}  // namespace

std::string member_name(size_t index) { return "member" + std::to_string(index); }

std::string member_path(const std::string& image, size_t index) {
  return image.substr(0, image.rfind('/') + 1) + member_name(index);
}

const std::vector<Recipe>& recipes() {
  static const std::vector<Recipe> kRecipes = {
      {"empty", empty},
      {"closed", closed},
      {"unclean", unclean},
      {"many_tables", many_tables},
      {"layered", layered},
      {"layered_unclean", layered_unclean},
      {"branched", branched},
      {"deleting", deleting},
      {"quarantined", quarantined},
      {"trimming", trimming},
      {"striped", striped, 4, kUnit},
      {"striped_unclean", striped_unclean, 2, kUnit},
      {"striped_session", striped_session, 4, kUnit},
  };
  return kRecipes;
}

}  // namespace fuzz
