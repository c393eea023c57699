// SPDX-License-Identifier: BSD-3-Clause
#include "tests/unit/pcow/fault_world.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <iterator>
#include <stdexcept>

#include "pcow/base/crc32c.h"

// The time of day stands still, so that the same work makes the same bytes.
extern "C" __attribute__((visibility("default"))) int clock_gettime(clockid_t clock,
                                                                    timespec* time) noexcept {
  static auto* const kNext =
      reinterpret_cast<int (*)(clockid_t, timespec*)>(dlsym(RTLD_NEXT, "clock_gettime"));
  const int rc = kNext(clock, time);
  if (rc == 0 && clock == CLOCK_REALTIME) *time = {.tv_sec = 1000000000, .tv_nsec = 0};
  return rc;
}

namespace test {
namespace {

using pcow::kPagesPerSegment;

constexpr uint64_t kValuesMax = 400;
constexpr uint64_t kUnknown = UINT64_MAX;

uint64_t first_word(const Page& page) {
  uint64_t word = 0;
  std::memcpy(&word, page.data(), sizeof(word));
  return word;
}

const std::map<uint64_t, uint64_t>& values_by_first_word() {
  static const std::map<uint64_t, uint64_t> kValues = [] {
    std::map<uint64_t, uint64_t> values;
    for (uint64_t value = 1; value < kValuesMax; ++value)
      values[first_word(page_of(value))] = value;
    return values;
  }();
  return kValues;
}

uint64_t value_of(const Page& page) {
  if (page == page_of(0)) return 0;
  const auto found = values_by_first_word().find(first_word(page));
  const bool known = found != values_by_first_word().end() && page == page_of(found->second);
  return known ? found->second : kUnknown;
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags) : fd_(open(path.c_str(), flags, 0600)) {
    if (fd_ < 0) throw std::runtime_error("cannot open " + path);
  }
  ~Descriptor() { close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

// Calls fn(offset, bytes) for what a file holds between its holes.
template <typename Function>
void for_each_piece(int fd, const Function& fn) {
  std::vector<char> bytes(size_t{1} << 16);
  off_t end = 0;
  for (;;) {
    off_t at = lseek(fd, end, SEEK_DATA);
    if (at < 0) return;
    end = lseek(fd, at, SEEK_HOLE);
    while (at < end) {
      const auto length = std::min<size_t>(bytes.size(), static_cast<size_t>(end - at));
      const ssize_t got = pread(fd, bytes.data(), length, at);
      if (got <= 0) throw std::runtime_error("cannot read a file of the test");
      fn(at, std::string_view(bytes.data(), static_cast<size_t>(got)));
      at += got;
    }
  }
}

void copy_file(const std::string& from, const std::string& to) {
  const Descriptor in(from, O_RDONLY);
  const Descriptor out(to, O_RDWR | O_CREAT | O_TRUNC);
  struct stat st = {};
  bool ok = fstat(in.get(), &st) == 0 && ftruncate(out.get(), st.st_size) == 0;
  for_each_piece(in.get(), [&](off_t at, std::string_view piece) {
    ok &= pwrite(out.get(), piece.data(), piece.size(), at) == static_cast<ssize_t>(piece.size());
  });
  const timespec times[] = {st.st_atim, st.st_mtim};  // a raw base is known by it
  ok &= futimens(out.get(), times) == 0;
  if (!ok) throw std::runtime_error("cannot copy " + from);
}

void copy_files(const std::string& from, const std::string& to) {
  std::filesystem::remove_all(to);
  std::filesystem::create_directory(to);
  for (const auto& entry : std::filesystem::directory_iterator(from)) {
    copy_file(entry.path().string(), to + "/" + entry.path().filename().string());
  }
}

// Of a file's content, wherever its holes are.
std::string digest(const std::string& path) {
  const Descriptor file(path, O_RDONLY);
  std::string text;
  uint64_t state[2] = {1, 2};
  for_each_piece(file.get(), [&](off_t at, std::string_view piece) {
    const auto bytes = std::as_bytes(std::span(piece));
    const uint32_t crc = pcow::crc32c(bytes);
    state[0] = (state[0] ^ static_cast<uint64_t>(at)) * 0x9e3779b97f4a7c15u + crc;
    state[1] = (state[1] + crc) * 0xd6e8feb86659fd93u ^ static_cast<uint64_t>(at);
  });
  return std::to_string(state[0]) + ":" + std::to_string(state[1]);
}

PageValues look_at_pages(const pcow::Image& image) {
  PageValues values;
  for (const uint64_t page : FaultWorld::pages()) {
    if ((page + 1) * pcow::kPageSize > image.virtual_size()) continue;
    if (const uint64_t value = value_of(read_page(image, page)); value != 0) values[page] = value;
  }
  return values;
}

uint64_t value_at(const PageValues& pages, uint64_t page) {
  const auto found = pages.find(page);
  return found == pages.end() ? 0 : found->second;
}

bool page_wise(const PageValues& found, const PageValues& before, const PageValues& after) {
  return std::ranges::all_of(FaultWorld::pages(), [&](uint64_t page) {
    const uint64_t value = value_at(found, page);
    return value == value_at(before, page) || value == value_at(after, page);
  });
}

std::string describe(const PageValues& pages) {
  std::string text;
  for (const auto& [page, value] : pages) {
    text += " " + std::to_string(page) + "=" + (value == kUnknown ? "?" : std::to_string(value));
  }
  return text;
}

}  // namespace

std::string describe(const Shown& shown) {
  std::string text =
      std::to_string(shown.size) + " on '" + shown.base + "':" + describe(shown.active);
  for (const auto& [name, pages] : shown.snapshots) text += "; " + name + ":" + describe(pages);
  return text;
}

Page page_of(uint64_t value) { return value == 0 ? Page(pcow::kPageSize) : pattern_page(value); }

PageBatch batch_of(const PageValues& pages) {
  PageBatch batch;
  for (const auto& [page, value] : pages) batch.add(page, page_of(value));
  return batch;
}

const std::vector<uint64_t>& FaultWorld::pages() {
  static const std::vector<uint64_t> kPages = [] {
    std::vector<uint64_t> pages;
    for (const uint64_t start :
         {uint64_t{0}, uint64_t{510}, kPagesPerSegment - 2, kPagesPerSegment + 510,
          2 * kPagesPerSegment - 1, 2 * kPagesPerSegment + 100}) {
      for (uint64_t page = start; page < start + 6; ++page) pages.push_back(page);
    }
    return pages;
  }();
  return kPages;
}

FaultWorld::FaultWorld() { std::filesystem::create_directory(live_); }

void FaultWorld::keep_as_start() { copy_files(live_, start_); }
void FaultWorld::put_back() const { copy_files(start_, live_); }
std::map<std::string, std::string> FaultWorld::digests() const {
  std::map<std::string, std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(live_)) {
    const std::string path = entry.path().string();
    found[entry.path().filename().string()] =
        std::to_string(entry.file_size()) + " " + digest(path);
  }
  return found;
}
void FaultWorld::copy_crashed() const { copy_files(live_, crash_); }

Shown look_at(const pcow::Image& image) {
  const auto base = image.info().base;
  return {image.virtual_size(), look_at_pages(image), {}, base ? base->path : ""};
}

Shown look_at_file(const std::string& path) {
  pcow::OpenOptions options;
  options.base = pcow::BaseAccess::kFollow;
  options.replay_in_memory = true;
  auto image = pcow::Image::open(path, options);
  if (!image) {
    ADD_FAILURE() << image.error().message;
    return {};
  }
  Shown shown = look_at(**image);
  const auto snapshots = (*image)->snapshots();
  EXPECT_TRUE(snapshots.has_value());
  for (const pcow::SnapshotInfo& snapshot : snapshots.value()) {
    options.snapshot = snapshot.name;
    auto kept = pcow::Image::open(path, options);
    if (!kept) {
      ADD_FAILURE() << kept.error().message;
      return shown;
    }
    shown.snapshots[snapshot.name] = look_at_pages(**kept);
  }
  return shown;
}

void expect_allowed(const Shown& found, const Shown& before, const Shown& after, Allowed allowed) {
  bool ok = found == before || (allowed != Allowed::kBefore && found == after);
  if (allowed == Allowed::kPageWise && !ok) {
    ok = found.size == before.size && found.snapshots == before.snapshots &&
         found.base == before.base && page_wise(found.active, before.active, after.active);
  }
  EXPECT_TRUE(ok) << "found  " << describe(found) << "\nbefore " << describe(before) << "\nafter  "
                  << (allowed == Allowed::kBefore ? "(no)" : describe(after));
}

void FaultWorld::verify(const std::string& path, const Shown& before, const Shown& after,
                        Allowed allowed) {
  std::string key = describe(before) + describe(after) + std::to_string(static_cast<int>(allowed));
  const auto directory = std::filesystem::path(path).parent_path();
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    files.insert(entry.path().filename().string() + digest(entry.path().string()));
  }
  for (const std::string& file : files) key += file;
  if (verified_.insert(key).second) verify_bytes(path, before, after, allowed);
}

void FaultWorld::verify_bytes(const std::string& path, const Shown& before, const Shown& after,
                              Allowed allowed) const {
  expect_clean_check(path, true);
  const Shown replayed = look_at_file(path);
  expect_allowed(replayed, before, after, allowed);
  {
    const auto image = open_image(path);
    ASSERT_NE(image, nullptr);
    ASSERT_OK(image->reclaim_unowned());
    ASSERT_OK(image->close());
  }
  // What a deletion that was cut short has in quarantine waits for the next one, or for a repair.
  const auto repaired = pcow::repair_image(path, pcow::Repair::kLeaks, {});
  ASSERT_OK(repaired);
  EXPECT_TRUE(repaired->refused.empty());
  EXPECT_EQ(describe(look_at_file(path)), describe(replayed));
  expect_clean_check(path);
}

}  // namespace test
