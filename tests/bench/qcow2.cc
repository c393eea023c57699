// SPDX-License-Identifier: BSD-3-Clause
#include "tests/bench/qcow2.h"

#include <pcow/units.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "tests/bench/medium.h"

namespace bench {
namespace {

constexpr uint64_t kClusterSize = 64 * pcow::kKiB;  // QEMU's default

// Takes this thread off the CPU that its measurements keep to, for what it starts meanwhile:
// people run qemu-img on the CPUs that there are.
class AllCpus {
 public:
  AllCpus() {
    cpu_set_t all;
    std::memset(&all, 0xff, sizeof(all));
    if (sched_getaffinity(0, sizeof(before_), &before_) != 0) fail_errno("sched_getaffinity");
    if (sched_setaffinity(0, sizeof(all), &all) != 0) fail_errno("sched_setaffinity");
  }
  ~AllCpus() { sched_setaffinity(0, sizeof(before_), &before_); }
  AllCpus(const AllCpus&) = delete;
  AllCpus& operator=(const AllCpus&) = delete;

 private:
  cpu_set_t before_;
};

// What the qemu-img of this build prints.
std::string qemu_img(std::vector<std::string> arguments) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = (self.parent_path() / "qemu-img").string();
  arguments.insert(arguments.begin(), program);
  std::vector<char*> words;
  words.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) fail_errno("cannot make a pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  pid_t child = 0;
  const AllCpus all_cpus;
  const int failed = posix_spawn(&child, program.c_str(), &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (failed != 0) fail("cannot run " + program + ": build all of it (cmake --build)");
  std::string output;
  std::array<char, 4096> part{};
  for (ssize_t n = 0; (n = read(ends[0], part.data(), part.size())) > 0;) {
    output.append(part.data(), static_cast<size_t>(n));
  }
  close(ends[0]);
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) fail(program + " failed: " + output);
  return output;
}

}  // namespace

double write_to_fresh_clusters(const std::string& raw, const std::string& overlay,
                               uint64_t clusters) {
  qemu_img({"create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", overlay});
  const std::string output =
      qemu_img({"bench", "-w", "-f", "qcow2", "-c", std::to_string(clusters), "-d", "1", "-s",
                std::to_string(pcow::kPageSize), "-S", std::to_string(kClusterSize), overlay});
  unlink(overlay.c_str());
  const std::string before = "Run completed in ";
  const size_t at = output.find(before);
  if (at == std::string::npos) fail("qemu-img bench tells no time: " + output);
  return std::strtod(output.c_str() + at + before.size(), nullptr) * 1e9 /
         static_cast<double>(clusters);
}

}  // namespace bench
