// SPDX-License-Identifier: BSD-3-Clause
//
// Puts images into the states that golden tests look at:
//   golden_image fill FILE OFFSET LENGTH    stores a pattern into whole pages, closes cleanly
//   golden_image crash FILE OFFSET LENGTH   the same, committed, but ends without closing
//   golden_image verify FILE OFFSET LENGTH  exit 1 unless the pattern is there
//   golden_image hold FILE COMMAND...       runs COMMAND while the image is open for writing
//   golden_image hold-read FILE COMMAND...  ... while it is open for reading
#include <sys/wait.h>
#include <unistd.h>

#include <pcow/image.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Page = std::vector<std::byte>;

[[noreturn]] void fail(const pcow::Error& error) {
  std::fprintf(stderr, "golden_image: %s\n", error.message.c_str());
  std::exit(1);
}

template <typename T>
T must(pcow::Result<T> result) {
  if (!result) fail(result.error());
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

Page pattern(uint64_t page) {
  Page bytes(pcow::kPageSize);
  uint64_t state = page * 0x9e3779b97f4a7c15 + 1;
  for (std::byte& byte : bytes) {
    state = state * 6364136223846793005 + 1442695040888963407;
    byte = static_cast<std::byte>(state >> 56);
  }
  return bytes;
}

std::unique_ptr<pcow::Image> open_image(const char* file, pcow::Access access) {
  pcow::OpenOptions options;
  options.access = access;
  options.replay_in_memory = true;
  options.base = pcow::BaseAccess::kFollow;
  return must(pcow::Image::open(file, options));
}

void store(pcow::Image& image, uint64_t offset, uint64_t length) {
  std::vector<Page> pages;
  std::vector<pcow::PageWrite> writes;
  const uint64_t first = offset / pcow::kPageSize;
  pages.reserve(length / pcow::kPageSize);
  writes.reserve(length / pcow::kPageSize);
  for (uint64_t n = 0; n < length / pcow::kPageSize; ++n) pages.push_back(pattern(first + n));
  for (uint64_t n = 0; n < pages.size(); ++n) {
    writes.push_back({pcow::PageIndex(first + n), pages[n].data()});
  }
  must(image.write_pages(writes));
  must(image.commit());
}

int verify(const char* file, uint64_t offset, uint64_t length) {
  const auto image = open_image(file, pcow::Access::kReadOnly);
  Page bytes(pcow::kPageSize);
  for (uint64_t at = offset; at < offset + length; at += pcow::kPageSize) {
    must(image->read(at, bytes));
    if (bytes != pattern(at / pcow::kPageSize)) {
      std::printf("wrong content at %llu\n", static_cast<unsigned long long>(at));
      return 1;
    }
  }
  std::printf("content is right\n");
  return 0;
}

int run(char** command) {
  const pid_t child = fork();
  if (child == 0) {
    execvp(command[0], command);
    std::perror(command[0]);
    _exit(127);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return 127;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int hold(const char* file, pcow::Access access, char** command) {
  const auto image = open_image(file, access);
  const int exit_code = run(command);
  must(image->close());
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string verb = argc > 3 ? argv[1] : "";
  if (verb == "hold") return hold(argv[2], pcow::Access::kReadWrite, argv + 3);
  if (verb == "hold-read") return hold(argv[2], pcow::Access::kReadOnly, argv + 3);
  if (argc != 5 || (verb != "fill" && verb != "crash" && verb != "verify")) {
    std::fprintf(stderr, "golden_image: see the head of its source for its usage\n");
    return 2;
  }
  const uint64_t offset = must(pcow::parse_size(argv[3]));
  const uint64_t length = must(pcow::parse_size(argv[4]));
  if (verb == "verify") return verify(argv[2], offset, length);
  const auto image = open_image(argv[2], pcow::Access::kReadWrite);
  store(*image, offset, length);
  if (verb == "crash") _exit(0);
  must(image->close());
  return 0;
}
